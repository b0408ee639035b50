# SPDX-License-Identifier: Apache-2.0
"""Finds the best of several answers by pairwise comparison: each challenger meets the best answer so far.

If preferences are transitive and symmetric, L − 1 comparisons find the best of L answers, instead of L (L − 1) / 2 for
all pairs. Chen et al. 2024b, as in arXiv 2502.04567, appendix B.1.

>>> scores = [3, 9, 4, 9]
>>> def higher(first, second):
...     return "first" if scores[first] > scores[second] else "second" if scores[first] < scores[second] else "tie"
>>> best_of(4, higher).best
1
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["first", "second", "tie", "unparsable"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The outcome for one prompt.

    Attributes:
        best: index of the winner.
        verdicts: one per challenger; ``first`` is the best answer so far, ``second`` the challenger.
    """

    best: int
    verdicts: tuple[Verdict, ...]

    @property
    def ties(self) -> int:
        """Number of comparisons without a winner, after which the best answer so far stayed."""
        return self.verdicts.count("tie")

    @property
    def beaten(self) -> tuple[int, ...]:
        """Indices of the other answers, without those that met the winner and did not lose, which may be as good."""
        unbeaten = {
            challenger
            for challenger, verdict in enumerate(self.verdicts, start=1)
            if challenger > self.best and verdict != "first"
        }
        return tuple(n for n in range(len(self.verdicts) + 1) if n != self.best and n not in unbeaten)

    @property
    def win_rate(self) -> float:
        """Share of the winner's comparisons that it won, ties counting half; NaN if it was in none."""
        own = self.verdicts[max(self.best - 1, 0) :]  # since it entered as a challenger, if it did
        points = [{"first": 1.0, "second": 1.0, "tie": 0.5}[verdict] for verdict in own if verdict != "unparsable"]
        return sum(points) / len(points) if points else math.nan


def best_of(num_answers: int, compare: Callable[[int, int], Verdict]) -> Ranking:
    """Compare each answer with the best so far, which stays on a tie or without a verdict.

    Args:
        num_answers: L, at least 1.
        compare: takes the indices of the best answer so far and of the challenger.
    """
    best, verdicts = 0, []
    for challenger in range(1, num_answers):
        verdicts.append(compare(best, challenger))
        if verdicts[-1] == "second":
            best = challenger
    return Ranking(best, tuple(verdicts))


def both_orders(forward: Verdict, backward: Verdict) -> Verdict:
    """Combine two verdicts on the same answers; for the second one they were shown in the other order.

    Contradicting verdicts, as from a judge that prefers a position, are a tie. If one is missing, the other counts.

    >>> both_orders("first", "second"), both_orders("first", "first"), both_orders("unparsable", "first")
    ('first', 'tie', 'second')
    """
    backward = exchanged(backward)
    if forward == "unparsable" or backward == "unparsable":
        return backward if forward == "unparsable" else forward
    return forward if forward == backward else "tie"


def exchanged(verdict: Verdict) -> Verdict:
    """The same verdict with the two answers in the other order."""
    others: dict[Verdict, Verdict] = {"first": "second", "second": "first"}
    return others.get(verdict, verdict)
