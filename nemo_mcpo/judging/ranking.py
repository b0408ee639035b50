# SPDX-License-Identifier: Apache-2.0
"""The best of several answers by comparing pairs: each challenger meets the best one so far.

If preferences are transitive and symmetric, L − 1 comparisons find the best of L answers, where all pairs would take
L (L − 1) / 2. Chen et al. 2024b, as in arXiv 2502.04567, appendix B.1.

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
        best: number of the winner.
        verdicts: one a challenger; ``first`` is the best answer so far, ``second`` the challenger.
    """

    best: int
    verdicts: tuple[Verdict, ...]

    @property
    def ties(self) -> int:
        """Comparisons without a winner; the best so far stayed."""
        return self.verdicts.count("tie")

    @property
    def failures(self) -> int:
        """Comparisons without a verdict; the best so far stayed."""
        return self.verdicts.count("unparsable")

    @property
    def beaten(self) -> tuple[int, ...]:
        """Numbers of the other answers, without those that met the winner and did not lose: they may be as good."""
        unbeaten = {
            challenger
            for challenger, verdict in enumerate(self.verdicts, start=1)
            if challenger > self.best and verdict != "first"
        }
        return tuple(n for n in range(len(self.verdicts) + 1) if n != self.best and n not in unbeaten)

    @property
    def win_rate(self) -> float:
        """Share of the winner's own comparisons that it won, a tie counts half; NaN when it was in none."""
        own = self.verdicts[max(self.best - 1, 0) :]  # it entered as a challenger, or is the first answer
        points = [{"first": 1.0, "second": 1.0, "tie": 0.5}[verdict] for verdict in own if verdict != "unparsable"]
        return sum(points) / len(points) if points else math.nan


def best_of(num_answers: int, compare: Callable[[int, int], Verdict]) -> Ranking:
    """Compare answer by answer with the best so far; on a tie, or without a verdict, the best so far stays.

    Args:
        num_answers: L, at least 1.
        compare: of the numbers of the best so far and of the challenger.
    """
    best, verdicts = 0, []
    for challenger in range(1, num_answers):
        verdicts.append(compare(best, challenger))
        if verdicts[-1] == "second":
            best = challenger
    return Ranking(best, tuple(verdicts))


def both_orders(forward: Verdict, backward: Verdict) -> Verdict:
    """One verdict from two, the second of which saw the answers in the other order.

    A judge that prefers a place instead of an answer contradicts itself: a tie. A verdict that one order lacks is
    the other's.

    >>> both_orders("first", "second"), both_orders("first", "first"), both_orders("unparsable", "first")
    ('first', 'tie', 'second')
    """
    backward = exchanged(backward)
    if forward == "unparsable" or backward == "unparsable":
        return backward if forward == "unparsable" else forward
    return forward if forward == backward else "tie"


def exchanged(verdict: Verdict) -> Verdict:
    """The verdict as if the answers had been shown in the other order."""
    others: dict[Verdict, Verdict] = {"first": "second", "second": "first"}
    return others.get(verdict, verdict)
