# SPDX-License-Identifier: Apache-2.0
"""The quickstart's task: add two three-digit numbers column by column, with answers that a rule can check.

>>> problem = Problem(347, 585)
>>> problem.question
'What is 347+585?'
>>> worked_answer(problem)
'ones 7+5=12, tens 4+8+1=13, hundreds 3+5+1=9, answer 932'
>>> worked_answer(problem, frozenset({Mistake("tens", "forget")}))
'ones 7+5=12, tens 4+8=12, hundreds 3+5+1=9, answer 922'

The fine-tuning answers often forget to carry, so a fine-tuned model does, too, although it has seen carries.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nemo_mcpo.records import Message

COLUMNS = ("ones", "tens", "hundreds")
FORGET_CARRY = 0.6
"""Probability that a fine-tuning answer forgets a carry: the mistake that MC-PO should remove."""
SLIP = 0.02
"""Probability that a fine-tuning answer gets the sum of a column wrong by one."""
FARTHEST = 2000
"""Upper bound on the difference between two sums of three-digit numbers."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """``left + right``, with three digits each."""

    left: int
    right: int

    @classmethod
    def read(cls, text: str) -> Problem:
        """Read the problem in a question, or in a dialogue that ends with one."""
        left, right = re.findall(r"What is (\d{3})\+(\d{3})\?", text)[-1]
        return cls(int(left), int(right))

    @property
    def question(self) -> str:
        return f"What is {self.left}+{self.right}?"

    @property
    def answer(self) -> int:
        return self.left + self.right


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """A mistake in one column: ``forget`` or ``invent`` a carry, or a sum that is off by one (``more``, ``less``)."""

    column: str
    kind: str


def draw_problems(number: int, generator: random.Random) -> list[Problem]:
    """Draw problems that differ in more than the order of their two numbers."""
    pairs: dict[tuple[int, int], Problem] = {}
    while len(pairs) < number:
        left, right = generator.randint(100, 999), generator.randint(100, 999)
        pairs.setdefault((min(left, right), max(left, right)), Problem(left, right))
    return list(pairs.values())


def worked_answer(problem: Problem, mistakes: frozenset[Mistake] = frozenset()) -> str:
    """Return a worked answer such as ``ones 9+9=18, …, answer 1998``; mistakes carry through to the final number.

    In a column, ``forget`` and ``invent`` set the carry; ``more`` and ``less`` change the sum, which stays at least 0.
    """
    carry, digits, steps = 0, "", []
    for place, name in enumerate(COLUMNS):
        left, right = (number // 10**place % 10 for number in (problem.left, problem.right))
        if Mistake(name, "forget") in mistakes:
            carry = 0
        if Mistake(name, "invent") in mistakes:
            carry = 1
        total = left + right + carry + (Mistake(name, "more") in mistakes) - (Mistake(name, "less") in mistakes)
        steps.append(f"{name} {left}+{right}{f'+{carry}' if carry else ''}={max(total, 0)}")
        carry, digit = divmod(max(total, 0), 10)
        digits = f"{digit}{digits}"
    return f"{', '.join(steps)}, answer {carry or ''}{digits}"


def hurried_work(problem: Problem, generator: random.Random) -> str:
    """A worked answer that often forgets a carry and sometimes gets a sum wrong."""
    mistakes = set()
    for name in COLUMNS:
        if generator.random() < FORGET_CARRY:
            mistakes.add(Mistake(name, "forget"))
        if generator.random() < SLIP:
            mistakes.add(Mistake(name, generator.choice(("more", "less"))))
    return worked_answer(problem, frozenset(mistakes))


def wrong_answers(problem: Problem) -> Iterator[str]:
    """All distinct wrong answers with one mistake, then with two; forgotten and invented carries come first."""
    carries = [Mistake(name, kind) for kind in ("forget", "invent") for name in COLUMNS[1:]]
    single = carries + [Mistake(name, kind) for kind in ("more", "less") for name in COLUMNS]
    seen = {worked_answer(problem)}
    for number in (1, 2):
        for mistakes in itertools.combinations(single, number):
            text = worked_answer(problem, frozenset(mistakes))
            if text not in seen and not is_right(problem, text):
                seen.add(text)
                yield text


def final_number(text: str) -> int | None:
    """The number at the end of a worked answer, or None; the rest of the text is ignored."""
    found = re.search(r"answer (\d{1,9})\s*\Z", text)
    return int(found.group(1)) if found else None


def is_right(problem: Problem, text: str) -> bool:
    """The rule: whether the final number is the sum."""
    return final_number(text) == problem.answer


def rank_answers(problem: Problem, sampled: Iterable[str], number: int) -> list[str]:
    """``number`` distinct answers, best first: the right one, then wrong ones by their distance from it.

    The wrong ones are samples from a policy, plus constructed ones if there are too few distinct samples. A right
    number with wrong steps is left out, since the rule cannot tell whether it is better than a wrong number.
    """
    right = worked_answer(problem)
    pool = dict.fromkeys(text for text in sampled if text and not is_right(problem, text))
    pool.update(dict.fromkeys(wrong_answers(problem)))
    wrong = list(pool)[: number - 1]
    return [right, *sorted(wrong, key=lambda text: -score(problem, text))]


def score(problem: Problem, text: str) -> float:
    """Minus the distance from the sum; an answer without a final number gets the lowest score."""
    found = final_number(text)
    return float(-FARTHEST if found is None else -min(abs(found - problem.answer), FARTHEST))


def judge_answer(conversation: Sequence[Message], text: str) -> float:
    """The rule as a judge: right steps first, then a right number, then wrong numbers by their distance."""
    problem = Problem.read(conversation[-1].content)
    return 1.0 if text == worked_answer(problem) else score(problem, text)


def nectar_record(problem: Problem, answers: Sequence[str], sampled: Sequence[str] = ()) -> dict[str, object]:
    """One record in Nectar's schema, with ``answers`` best first; those in ``sampled`` came from a model."""
    ranked = [
        {
            "answer": text,
            "model": "sft" if text in sampled else "rule",
            "rank": float(rank),
            "score": score(problem, text),
        }
        for rank, text in enumerate(answers, start=1)
    ]
    return {"prompt": f"\n\nHuman: {problem.question} \n\nAssistant:", "answers": ranked}
