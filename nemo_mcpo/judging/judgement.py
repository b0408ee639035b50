# SPDX-License-Identifier: Apache-2.0
"""What a judge is asked and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nemo_mcpo.config import Judge as JudgeSettings, OnlineRunConfig
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.records import Message
from nemo_mcpo.rollouts.fit import Machine


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with the different answers to judge, at least two.

    Attributes:
        number: its place in the list that is judged.
        conversation: ends with a user turn.
    """

    number: int
    conversation: tuple[Message, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The outcome for one question.

    Attributes:
        order: numbers of its answers, best first; those that the judge finds as good as the best one are left out,
            as they are no negatives.
        scores: of all answers, higher is better; None where pairs were compared.
        win_rate: of the best answer against the others that it met, a tie counts half; NaN when it met none.
        ties: comparisons without a winner; with scores, answers as good as the best one.
        failures: comparisons without a verdict, or answers without a score; the best so far stayed.
        unfinished: of the failures, those whose last reply was cut by the judge's limit.
        cut: comparisons, or scored answers, of which the judge did not see everything.
        comparisons: that have a verdict, ties too.
        first_place, second_place: of these, for the answer that was shown first, or second.
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
        """Numbers and judgements as they finish."""

    def close(self) -> None:
        """Give back what it took."""


@dataclass(frozen=True, slots=True)
class JudgeKind:
    """One kind of judge.

    Attributes:
        build: from the section ``judge``, the directory of verdicts that every run may use, that of verdicts that are
            of this run alone, and a directory for logs.
        check: raises ConfigError where a key is missing or does not fit the others.
        preflight: lines for the user; raises ConfigError where something on this machine is missing or does not fit.
        gives_scores: its judgements have a score of every answer.
    """

    build: Callable[[JudgeSettings, Path, Path, Path], Judge]
    check: Callable[[OnlineRunConfig], None]
    preflight: Callable[[OnlineRunConfig, Machine], Sequence[str]]
    gives_scores: bool


def require_key(value: str | None, key: str, example: str) -> str:
    """The value of a key that this kind of judge cannot do without."""
    if value is None:
        raise ConfigError("the judge is missing", where=key, fix=f"set {key}={example}")
    return value


def by_scores(scores: Sequence[float]) -> Judgement:
    """The highest score wins, the first of equal ones; answers with the winner's score are left out.

    >>> by_scores([1.0, 3.0, 2.0, 3.0]).order
    (1, 2, 0)
    """
    best = max(range(len(scores)), key=lambda number: (scores[number], -number))
    others = [number for number in range(len(scores)) if scores[number] < scores[best]]
    others.sort(key=lambda number: (-scores[number], number))
    ties = len(scores) - 1 - len(others)
    return Judgement((best, *others), (len(others) + ties / 2) / (len(scores) - 1), tuple(scores), ties)
