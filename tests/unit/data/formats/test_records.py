# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from nemo_mcpo.data.formats.records import Answer, BadRecordError, order_answers


def ordered(*answers: Answer, drop_ranks: tuple[int, ...] = (), max_candidates: int | None = None) -> list[str | None]:
    return [response.text for response in order_answers(answers, drop_ranks, max_candidates)]


def test_by_rank_with_gaps_and_whole_floats() -> None:
    assert ordered(Answer("c", 7), Answer("a", 1.0), Answer("b", 3)) == ["a", "b", "c"]


def test_by_score_and_equal_scores_as_listed() -> None:
    assert ordered(Answer("b", score=1), Answer("a", score=2.5), Answer("c", score=1)) == ["a", "b", "c"]


def test_rank_goes_before_score() -> None:
    responses = order_answers([Answer("b", 2, 9.0), Answer("a", 1, 3.0)], (), None)
    assert [(response.text, response.score) for response in responses] == [("a", 3.0), ("b", 9.0)]


def test_as_listed() -> None:
    assert ordered(Answer("b"), Answer("a")) == ["b", "a"]
    assert ordered(Answer("b", score=1, listed=True), Answer("a", score=1, listed=True)) == ["b", "a"]


def test_drop_ranks_is_for_ranks_only() -> None:
    ranked = [Answer("c", 3), Answer("a", 1), Answer("b", 2)]
    assert ordered(*ranked, drop_ranks=(2,)) == ["a", "c"]
    assert ordered(*ranked, drop_ranks=(1,)) == ["b", "c"]
    assert ordered(Answer("a", score=2), Answer("b", score=1), drop_ranks=(2,)) == ["a", "b"]


def test_max_candidates_keeps_the_first_after_the_preferred() -> None:
    assert ordered(*(Answer(str(rank), rank) for rank in range(1, 6)), drop_ranks=(2,), max_candidates=2) == [
        "1",
        "3",
        "4",
    ]


def test_a_bad_answer_that_is_not_used_does_no_harm() -> None:
    assert ordered(Answer("a", 1), Answer(" ", 2), Answer("c", 3), drop_ranks=(2,)) == ["a", "c"]


def test_white_space_around_answers_goes() -> None:
    assert ordered(Answer(" a\n", 1), Answer("\tb", 2)) == ["a", "b"]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([], "no answers"),
        ([Answer("a", 1)], "one answer"),
        ([Answer("a", 1), Answer("b", 2)], "one answer"),  # rank 2 is dropped
        ([Answer("a", 1), Answer("b", 1), Answer("c", 3)], "duplicate ranks"),
        ([Answer("a", 1), Answer("b", 1.5)], "rank is not a whole number from 1"),
        ([Answer("a", 0), Answer("b", 1)], "rank is not a whole number from 1"),
        ([Answer("a", math.nan), Answer("b", 1)], "rank is not a whole number from 1"),
        ([Answer("a", math.inf), Answer("b", 1)], "rank is not a whole number from 1"),
        ([Answer("a", True), Answer("b", 3)], "rank is not a whole number from 1"),
        ([Answer("a", 1), Answer("b")], "rank is not a whole number from 1"),
        ([Answer("a", score=math.nan), Answer("b", score=1)], "score is not a finite number"),
        ([Answer("a", score=math.inf), Answer("b", score=1)], "score is not a finite number"),
        ([Answer("a", 1, math.nan), Answer("b", 3, 1)], "score is not a finite number"),
        ([Answer("a", score="high"), Answer("b", score=1)], "score is not a finite number"),
        ([Answer("a", score=1), Answer("b")], "score missing for some answers"),
        ([Answer("a", score=1), Answer("b", score=1)], "all scores equal"),
        ([Answer(" \n", 1), Answer("b", 3)], "empty answer"),
        ([Answer("a", 1), Answer("", 3)], "empty answer"),
        ([Answer((), 1), Answer((1,), 3)], "empty answer"),
        ([Answer("\ud800", 1), Answer("b", 3)], "text is not valid Unicode"),
    ],
)
def test_bad_records(answers: list[Answer], reason: str) -> None:
    with pytest.raises(BadRecordError) as caught:
        order_answers(answers, (2,), None)
    assert caught.value.reason == reason
