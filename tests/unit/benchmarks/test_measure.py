# SPDX-License-Identifier: Apache-2.0
"""Medians, turns, and peak memory."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure import Measured, Spread, interleave, measure, ratio


def test_ratios_are_taken_turn_by_turn():
    slow = [Measured(seconds, 0) for seconds in (2.0, 30.0, 4.0)]
    fast = [Measured(seconds, 0) for seconds in (1.0, 10.0, 1.0)]
    assert ratio(slow, fast) == Spread(median=3.0, low=2.0, high=4.0)


def test_programs_take_turns_after_a_warm_up():
    calls: list[str] = []
    measured = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, steps=2)
    assert calls == ["a", "b"] * 3
    assert [len(runs) for runs in measured.values()] == [2, 2]


def test_the_peak_is_that_of_the_call():
    before = measure(lambda: None).peak_bytes
    large = measure(lambda: torch.ones(1 << 25)).peak_bytes
    assert large - before == pytest.approx(4 << 25, rel=0.2)
    assert measure(lambda: None).peak_bytes < large - (1 << 26)
