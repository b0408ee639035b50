# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from nemo_mcpo.data.formats.records import BadRecordError, RawResponse, order_responses


def ordered(
    *raw: RawResponse, drop_ranks: tuple[int, ...] = (), max_candidates: int | None = None
) -> list[str | None]:
    return [response.text for response in order_responses(raw, drop_ranks, max_candidates)]


def test_by_rank_with_gaps_and_integral_floats():
    assert ordered(RawResponse("c", 7), RawResponse("a", 1.0), RawResponse("b", 3)) == ["a", "b", "c"]


def test_by_score_and_equal_scores_as_listed():
    assert ordered(RawResponse("b", score=1), RawResponse("a", score=2.5), RawResponse("c", score=1)) == [
        "a",
        "b",
        "c",
    ]


def test_rank_takes_precedence_over_score():
    responses = order_responses([RawResponse("b", 2, 9.0), RawResponse("a", 1, 3.0)], (), None)
    assert [(response.text, response.score) for response in responses] == [("a", 3.0), ("b", 9.0)]


def test_as_listed():
    assert ordered(RawResponse("b"), RawResponse("a")) == ["b", "a"]
    assert ordered(RawResponse("b", score=1, listed=True), RawResponse("a", score=1, listed=True)) == ["b", "a"]


def test_drop_ranks_applies_only_to_ranks():
    ranked = [RawResponse("c", 3), RawResponse("a", 1), RawResponse("b", 2)]
    assert ordered(*ranked, drop_ranks=(2,)) == ["a", "c"]
    assert ordered(*ranked, drop_ranks=(1,)) == ["b", "c"]
    assert ordered(RawResponse("a", score=2), RawResponse("b", score=1), drop_ranks=(2,)) == ["a", "b"]


def test_max_candidates_keeps_the_first_after_the_preferred():
    assert ordered(*(RawResponse(str(rank), rank) for rank in range(1, 6)), drop_ranks=(2,), max_candidates=2) == [
        "1",
        "3",
        "4",
    ]


def test_an_unused_bad_response_does_not_matter():
    assert ordered(RawResponse("a", 1), RawResponse(" ", 2), RawResponse("c", 3), drop_ranks=(2,)) == ["a", "c"]


def test_white_space_around_responses_is_removed():
    assert ordered(RawResponse(" a\n", 1), RawResponse("\tb", 2)) == ["a", "b"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([], "no responses"),
        ([RawResponse("a", 1)], "only one response"),
        ([RawResponse("a", 1), RawResponse("b", 2)], "only one response"),  # rank 2 is dropped
        ([RawResponse("a", 1), RawResponse("b", 1), RawResponse("c", 3)], "duplicate ranks"),
        ([RawResponse("a", 1), RawResponse("b", 1.5)], "rank is not a positive integer"),
        ([RawResponse("a", 0), RawResponse("b", 1)], "rank is not a positive integer"),
        ([RawResponse("a", math.nan), RawResponse("b", 1)], "rank is not a positive integer"),
        ([RawResponse("a", math.inf), RawResponse("b", 1)], "rank is not a positive integer"),
        ([RawResponse("a", True), RawResponse("b", 3)], "rank is not a positive integer"),
        ([RawResponse("a", 1), RawResponse("b")], "rank is not a positive integer"),
        ([RawResponse("a", score=math.nan), RawResponse("b", score=1)], "score is not a finite number"),
        ([RawResponse("a", score=math.inf), RawResponse("b", score=1)], "score is not a finite number"),
        ([RawResponse("a", 1, math.nan), RawResponse("b", 3, 1)], "score is not a finite number"),
        ([RawResponse("a", score="high"), RawResponse("b", score=1)], "score is not a finite number"),
        ([RawResponse("a", score=1), RawResponse("b")], "score missing for some responses"),
        ([RawResponse("a", score=1), RawResponse("b", score=1)], "all scores equal"),
        ([RawResponse(" \n", 1), RawResponse("b", 3)], "empty response"),
        ([RawResponse("a", 1), RawResponse("", 3)], "empty response"),
        ([RawResponse((), 1), RawResponse((1,), 3)], "empty response"),
        ([RawResponse("\ud800", 1), RawResponse("b", 3)], "text is not valid Unicode"),
    ],
)
def test_bad_records(raw, reason):
    with pytest.raises(BadRecordError) as caught:
        order_responses(raw, (2,), None)
    assert caught.value.reason == reason
