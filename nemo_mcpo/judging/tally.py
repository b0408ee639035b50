# SPDX-License-Identifier: Apache-2.0
"""What a judge did in a whole segment or evaluation, and whether it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.judging.judgement import Judgement

MAX_FAILED = 0.2
"""Share of the comparisons that may end without a verdict."""
ENOUGH_TO_TELL, FARTHEST_FROM_HALF = 200, 0.45
"""Verdicts for one of two answers, and how far from a half the share of those for the first place may be."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums of judgements.

    Attributes:
        comparisons: with a verdict, ties too; 0 where answers are scored.
        ties: comparisons without a winner; with scores, answers as good as the best one.
        failures: comparisons without a verdict, or answers without a score.
        unfinished: of these, how many because judge.max_tokens cut the last reply.
        cut: comparisons, or scored answers, of which the judge did not see everything.
        first_place: share of the verdicts for the first of two answers among those for one of them; NaN without any.
    """

    comparisons: int
    ties: int
    failures: int
    unfinished: int
    cut: int
    first_place: float


@dataclass(frozen=True, slots=True)
class Ranked(Tally):
    """What a segment's judge found and did.

    Attributes:
        prompts: in the file.
        without_choice: prompts with one answer, or none that the judge finds worse than its best.
        win_rate: of the best answers against the others that they met, a tie counts half, by the judge that chose.
    """

    prompts: int
    without_choice: int
    win_rate: float


def tally(judgements: Iterable[Judgement | None]) -> Tally:
    """Add up judgements.

    Raises:
        RolloutError: the judge seldom gives a verdict, or sees places instead of answers.
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
            fix="raise judge.max_tokens or judge.attempts, or take a larger judge; its verdicts so far are kept",
        )
    if decided >= ENOUGH_TO_TELL and abs(total.first_place - 0.5) > FARTHEST_FROM_HALF:
        raise RolloutError(
            "the judge prefers a place, whatever stands there",
            where="judge",
            got=f"{total.first_place:.0%} of {decided} verdicts for the first one",
            expected="about half, as places are drawn",
            fix="take another judge",
        )
    return total


_PHRASES = {
    "comparisons": "{:.0f} comparisons",
    "ties": "{:.0f} ties",
    "failures": "{:.0f} without a verdict",
    "unfinished": "{:.0f} of them unfinished",
    "cut": "{:.0f} cut for the judge",
    "first_place": "{:.1%} for the first place",
}


def tally_text(total: Tally) -> str:
    """For people: what is known, that is, not NaN."""
    known = {name: getattr(total, name) for name in _PHRASES}
    return ", ".join(_PHRASES[name].format(value) for name, value in known.items() if not math.isnan(value))
