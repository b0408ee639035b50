# SPDX-License-Identifier: Apache-2.0
"""Statistics of a judge over a whole segment or evaluation, and whether it is reliable."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.judging.judgement import Judgement

MAX_FAILED = 0.2
"""Maximum share of comparisons without a verdict."""
ENOUGH_TO_TELL, FARTHEST_FROM_HALF = 200, 0.45
"""Number of verdicts from which position bias is checked, and how far from 1/2 the share of first places may be."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums of the counts in several ``Judgement``.

    ``first_place`` is a share: of verdicts for the answer shown first, among those with a winner; NaN without any.
    """

    comparisons: int
    ties: int
    failures: int
    unfinished: int
    cut: int
    first_place: float


@dataclass(frozen=True, slots=True)
class Ranked(Tally):
    """Result of a segment's judge stage.

    Attributes:
        prompts: prompts in the file.
        without_choice: prompts without an answer that the judge finds worse than the best one.
        win_rate: mean win rate of the best answers against those they met, ties counting half, by the same judge.
    """

    prompts: int
    without_choice: int
    win_rate: float


def tally(judgements: Iterable[Judgement | None]) -> Tally:
    """Sum up judgements.

    Raises:
        RolloutError: the judge fails too often, or prefers one position.
    """
    known = [judgement for judgement in judgements if judgement is not None]
    first = sum(judgement.first_place for judgement in known)
    decided = first + sum(judgement.second_place for judgement in known)
    total = Tally(
        comparisons=sum(judgement.comparisons for judgement in known),
        ties=sum(judgement.ties for judgement in known),
        failures=sum(judgement.failures for judgement in known),
        unfinished=sum(judgement.unfinished for judgement in known),
        cut=sum(judgement.cut for judgement in known),
        first_place=first / decided if decided else math.nan,
    )
    judged = total.comparisons or sum(len(judgement.scores or ()) for judgement in known)
    if total.failures > MAX_FAILED * (judged + total.failures):
        raise RolloutError(
            "the judge gives too few verdicts",
            where="judge",
            got=f"{total.failures} of {judged + total.failures} without one, {total.unfinished} of them cut by "
            "judge.max_tokens",
            expected=f"at most {MAX_FAILED:.0%}",
            fix="raise judge.max_tokens or judge.attempts, or use a larger judge; verdicts so far are kept",
        )
    if decided >= ENOUGH_TO_TELL and abs(total.first_place - 0.5) > FARTHEST_FROM_HALF:
        raise RolloutError(
            "the judge prefers one position, whatever the answers",
            where="judge",
            got=f"{total.first_place:.0%} of {decided} verdicts for the first position",
            expected="about half, since positions are random",
            fix="use another judge",
        )
    return total


_PHRASES = {
    "comparisons": "{:.0f} comparisons",
    "ties": "{:.0f} ties",
    "failures": "{:.0f} without a verdict",
    "unfinished": "{:.0f} of them unfinished",
    "cut": "{:.0f} cut to fit the judge's window",
    "first_place": "{:.1%} for the first position",
}


def tally_text(total: Tally) -> str:
    """One line for the user, without values that are NaN."""
    known = {name: getattr(total, name) for name in _PHRASES}
    return ", ".join(_PHRASES[name].format(value) for name, value in known.items() if not math.isnan(value))
