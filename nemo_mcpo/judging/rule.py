# SPDX-License-Identifier: Apache-2.0
"""Judge ``rule``: a Python function scores every answer."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence

from nemo_mcpo.errors import ConfigError, RolloutError
from nemo_mcpo.judging.judgement import Judgement, Question, by_scores
from nemo_mcpo.records import Message

Rule = Callable[[tuple[Message, ...], str], float]


class RuleJudge:
    """See ``judgement.Judge``."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def judge(self, questions: Sequence[Question]) -> Iterator[tuple[int, Judgement]]:
        """See ``judgement.Judge``."""
        for question in questions:
            yield question.number, by_scores([self._score(question, answer) for answer in question.answers])

    def _score(self, question: Question, answer: str) -> float:
        score = self.rule(question.conversation, answer)
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise RolloutError(
                "the rule did not give a finite number",
                where="judge.rule",
                got=repr(score),
                cure=f"look at what it does with {answer[:60]!r}",
            )
        return float(score)

    def close(self) -> None:
        """See ``judgement.Judge``."""


def load_rule(name: str) -> Rule:
    """The function that ``module:function`` names."""
    module, _, function = name.partition(":")
    try:
        rule = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "there is no such function",
            where="judge.rule",
            got=name,
            expected="module:function that Python can import",
            cure=f"{error}: check the name and PYTHONPATH",
        ) from error
    return rule
