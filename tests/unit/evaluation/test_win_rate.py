# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.evaluation.intervals import rate_interval
from nemo_mcpo.evaluation.win_rate import count_outcomes, win_rate_line
from nemo_mcpo.judging.judgement import Judgement
from nemo_mcpo.rollouts.samples import Sample, SampleKey

WON, LOST, TIE = Judgement((0, 1), 1.0), Judgement((1, 0), 1.0), Judgement((0,), 0.5, ties=1)
FAILED = Judgement((0,), float("nan"), failures=1)


def pairs(count: int) -> list[tuple[Sample, Sample]]:
    key = SampleKey(0, 0, 1.0, 0)
    return [(Sample(key, "a", 6, True), Sample(key, "b", 4, True))] * count


def test_what_counts():
    found = count_outcomes([WON, WON, LOST, TIE, FAILED], pairs(7), num_prompts=8)  # two pairs of equal answers
    assert (found.wins, found.ties, found.losses, found.failures, found.unanswered) == (2, 3, 1, 1, 1)
    assert found.win_rate == rate_interval(3.5, 6)
    assert (found.policy_tokens, found.baseline_tokens) == (6.0, 4.0)
    assert win_rate_line(found).startswith("win rate 58.3% (")


def test_without_a_verdict_there_is_no_rate():
    with pytest.raises(RolloutError, match="no pair of answers has a verdict"):
        count_outcomes([FAILED], pairs(1), num_prompts=1)
