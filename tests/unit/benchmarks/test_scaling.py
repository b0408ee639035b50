# SPDX-License-Identifier: Apache-2.0
"""The linear fit of the cost of candidates."""

from __future__ import annotations

import pytest

from benchmarks.scaling import cost_of_a_candidate


def test_a_straight_line():
    points = [
        {"varies": "L", "candidates": count, "seconds": {"median": 2.0 + 0.5 * count}} for count in (5, 10, 15, 20)
    ]
    line = cost_of_a_candidate([*points, {"varies": "M", "candidates": 5, "seconds": {"median": 100.0}}])
    assert line == pytest.approx({"seconds_per_candidate": 0.5, "seconds_without": 2.0, "r_squared": 1.0})
