# SPDX-License-Identifier: Apache-2.0
"""Segments divide a run evenly."""

from __future__ import annotations

import pytest

from nemo_mcpo.algorithms.segments import split_steps
from nemo_mcpo.errors import ConfigError


@pytest.mark.parametrize(("steps", "segments"), [(1, 1), (7, 3), (90, 3), (100, 7), (3, 3)])
def test_every_step_is_in_one_segment(steps, segments):
    parts = split_steps(steps, segments)
    assert [step for part in parts for step in range(part.first_step, part.last_step)] == list(range(steps))
    sizes = [part.last_step - part.first_step for part in parts]
    assert len(parts) == segments and max(sizes) - min(sizes) <= 1


def test_more_segments_than_steps():
    with pytest.raises(ConfigError, match=r"onmcpo\.segments: more segments than steps"):
        split_steps(2, 3)
