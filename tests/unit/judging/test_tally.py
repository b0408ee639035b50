# SPDX-License-Identifier: Apache-2.0
"""Statistics of a judge, and unreliable judges."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.judging.judgement import Judgement, by_scores
from nemo_mcpo.judging.tally import Tally, tally, tally_text


def test_sums():
    one = Judgement((0, 1), 1.0, ties=1, failures=2, unfinished=1, cut=3, comparisons=9, first_place=5, second_place=3)
    total = tally([one, None, one, by_scores([1.0, 1.0, 0.0])])
    assert total == Tally(comparisons=18, ties=3, failures=4, unfinished=2, cut=6, first_place=10 / 16)
    assert tally_text(total) == (
        "18 comparisons, 3 ties, 4 without a verdict, 2 of them unfinished, 6 cut to fit the judge's window, "
        "62.5% for the first position"
    )


def test_without_a_choice_there_is_no_share():
    total = tally([Judgement((0,), 0.5, ties=1, comparisons=1)])
    assert math.isnan(total.first_place)
    assert "place" not in tally_text(total) and "cut" not in tally_text(replace(total, cut=math.nan))


@pytest.mark.parametrize(
    ("counts", "what", "got"),
    [
        (
            {"failures": 3, "comparisons": 7, "unfinished": 2},
            "too few verdicts",
            "3 of 10 without one, 2 of them cut ",
        ),
        ({"comparisons": 400, "first_place": 290, "second_place": 10}, "prefers one position", "97% of 300 "),
        ({"comparisons": 300, "first_place": 5, "second_place": 295}, "prefers one position", "2% of 300 "),
    ],
)
def test_unreliable_judges(counts, what, got):
    with pytest.raises(RolloutError, match=what) as caught:
        tally([Judgement((2, 0, 1), 1.0, **counts), None])
    assert caught.value.where == "judge" and caught.value.got.startswith(got)


def test_a_fifth_without_a_verdict_is_the_limit():
    assert tally([Judgement((0,), 0.5, failures=2, comparisons=8)]).failures == 2
    scored = [by_scores([1.0, 2.0])] * 4
    assert tally([*scored, Judgement((0,), math.nan, failures=2)]).failures == 2
    with pytest.raises(RolloutError, match="too few verdicts") as caught:
        tally([*scored, Judgement((0,), math.nan, failures=3)])
    assert caught.value.got.startswith("3 of 11 ")


def test_many_ties_are_not_position_bias():
    assert tally([Judgement((2, 0), 0.5, comparisons=900, ties=890, first_place=4, second_place=6)]).first_place == 0.4
