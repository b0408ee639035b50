# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.evaluation.intervals import rate_interval
from nemo_mcpo.evaluation.win_rate import count_outcomes, win_rate_line
from nemo_mcpo.judging.judgement import Judgement
from nemo_mcpo.judging.tally import Tally
from nemo_mcpo.rollouts.samples import Sample, SampleKey

WON = Judgement((0, 1), 1.0, comparisons=2, first_place=1, second_place=1)
LOST = Judgement((1, 0), 1.0, comparisons=2, first_place=1, second_place=1)
TIE = Judgement((0,), 0.5, ties=1, comparisons=2, cut=2)
FAILED = Judgement((0, 1), 1.0, failures=1, unfinished=1, comparisons=1)  # one of two orders


def pairs(count: int) -> list[tuple[Sample, Sample]]:
    key = SampleKey(0, 0, 1.0, 0)
    return [(Sample(key, "a", 6, True), Sample(key, "b", 4, False))] * count


def test_what_counts():
    found = count_outcomes([WON, WON, LOST, TIE, FAILED], pairs(7), num_prompts=8)  # two pairs of equal answers
    assert (found.wins, found.ties, found.losses, found.failures, found.unanswered) == (2, 3, 1, 1, 1)
    assert (found.policy_unfinished, found.baseline_unfinished) == (0, 7)
    assert found.judge == Tally(comparisons=9, ties=1, failures=1, unfinished=1, cut=2, first_place=0.5)
    assert found.win_rate == rate_interval(3.5, 6)
    assert (found.policy_tokens, found.baseline_tokens) == (6.0, 4.0)
    line = win_rate_line(found)
    assert line.startswith("win rate 58.3% (") and "0 against 7 answers truncated" in line
    assert line.endswith("1 of them unfinished, 2 cut to fit the judge's window, 50.0% for the first position")


def test_without_a_verdict_there_is_no_rate():
    with pytest.raises(RolloutError, match="the judge gives too few verdicts"):
        count_outcomes([FAILED, WON], pairs(2), num_prompts=2)
    with pytest.raises(RolloutError, match="no prompt has both answers") as caught:
        count_outcomes([], [], num_prompts=3)
    assert caught.value.where == "model.data.validation" and caught.value.got.startswith("3 prompts, 0 answered")
