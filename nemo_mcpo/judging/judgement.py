# SPDX-License-Identifier: Apache-2.0
"""The interface of judges: questions, judgements, and entries in the table of judges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from nemo_mcpo.config import OnlineRunConfig
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.records import Message
from nemo_mcpo.rollouts.fit import Machine


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with at least two distinct answers to judge.

    Attributes:
        number: index in the list of prompts to judge.
        conversation: ends with a user turn.
    """

    number: int
    conversation: tuple[Message, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The outcome for one question.

    Attributes:
        order: indices of the answers, best first, without those that the judge finds as good as the best one, since
            they cannot be negatives.
        win_rate: share of the best answer's comparisons that it won, ties counting half; NaN if it was in none.
        scores: scores of all answers, higher is better; None if pairs were compared.
        ties: comparisons without a winner; with scores, other answers as good as the best one.
        failures: comparisons without a verdict, where the best answer so far stays, or answers without a score.
        unfinished: failures whose last reply was cut by the judge's token limit.
        cut: comparisons, or scored answers, for which the judge did not see the whole text.
        comparisons: comparisons with a verdict, including ties.
        first_place, second_place: verdicts for the answer that was shown first, or second.
    """

    order: tuple[int, ...]
    win_rate: float
    scores: tuple[float, ...] | None = None
    ties: int = 0
    failures: int = 0
    unfinished: int = 0
    cut: int = 0
    comparisons: int = 0
    first_place: int = 0
    second_place: int = 0


class Judge(Protocol):
    """Finds the best answer to every question."""

    def judge(self, questions: Sequence[Question]) -> Iterator[tuple[int, Judgement]]:
        """Yield question numbers and judgements as they finish."""

    def close(self) -> None:
        """Release servers and memory."""


@dataclass(frozen=True, slots=True)
class JudgeKind:
    """One kind of judge.

    Attributes:
        build: takes the section ``judge``, the directory of verdicts shared by all runs, that of this run's own
            verdicts, a directory for logs, and the kind's own parameters by keyword (``variant.bind``).
        check: raises ConfigError if a key is missing or does not fit the others.
        preflight: returns notes for the user; raises ConfigError if something on this machine is missing or does not
            fit.
        gives_scores: whether its judgements have scores.
    """

    build: Callable[..., Judge]
    check: Callable[[OnlineRunConfig], None]
    preflight: Callable[[OnlineRunConfig, Machine], Sequence[str]]
    gives_scores: bool


def require_key(value: str | None, key: str, example: str) -> str:
    """Return the value of a key that this kind of judge requires; raise ConfigError if it is None."""
    if value is None:
        raise ConfigError("this kind of judge needs it", where=key, fix=f"set {key}={example}")
    return value


def by_scores(scores: Sequence[float]) -> Judgement:
    """Rank answers by score; the first of equal ones wins, and the others with the winner's score are left out.

    >>> by_scores([1.0, 3.0, 2.0, 3.0]).order
    (1, 2, 0)
    """
    best = max(range(len(scores)), key=lambda number: (scores[number], -number))
    others = [number for number in range(len(scores)) if scores[number] < scores[best]]
    others.sort(key=lambda number: (-scores[number], number))
    ties = len(scores) - 1 - len(others)
    return Judgement((best, *others), (len(others) + ties / 2) / (len(scores) - 1), tuple(scores), ties)
