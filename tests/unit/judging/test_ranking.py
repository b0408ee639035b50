# SPDX-License-Identifier: Apache-2.0
"""The best of L answers with L − 1 comparisons."""

from __future__ import annotations

import random

import pytest

from nemo_mcpo.judging.ranking import best_of, both_orders


@pytest.mark.parametrize("num_answers", [1, 2, 6, 9])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_by_a_judge_that_is_consistent(num_answers, seed):
    scores = random.Random(seed).sample(range(100), num_answers)
    compared = []

    def compare(first, second):
        compared.append((first, second))
        return "first" if scores[first] > scores[second] else "second"

    ranking = best_of(num_answers, compare)
    assert scores[ranking.best] == max(scores)
    assert len(compared) == len(ranking.verdicts) == num_answers - 1
    assert ranking.ties == ranking.verdicts.count("unparsable") == 0


@pytest.mark.parametrize("verdict", ["tie", "unparsable", "first"])
def test_the_best_so_far_stays_without_a_winner(verdict):
    ranking = best_of(6, lambda first, second: verdict)
    assert (ranking.best, ranking.verdicts) == (0, (verdict,) * 5)
    assert ranking.ties == 5 * (verdict == "tie")


def test_both_orders():
    # A judge that always names the first position contradicts itself in the other order.
    assert both_orders("first", "first") == both_orders("second", "second") == "tie"
    assert both_orders("second", "first") == "second"
    assert both_orders("tie", "first") == both_orders("first", "tie") == "tie"
    assert both_orders("second", "unparsable") == "second"
    assert both_orders("unparsable", "unparsable") == "unparsable"
    ranking = best_of(6, lambda first, second: both_orders("first", "first"))
    assert (ranking.best, ranking.ties) == (0, 5)
