# SPDX-License-Identifier: Apache-2.0
"""Judge ``rule``: a Python function scores every answer."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Real

from nemo_mcpo.config import OnlineRunConfig
from nemo_mcpo.errors import ConfigError, RolloutError
from nemo_mcpo.judging.judgement import JudgeKind, Judgement, Question, by_scores, require_key
from nemo_mcpo.records import Message
from nemo_mcpo.rollouts.fit import Machine

Rule = Callable[[tuple[Message, ...], str], float]


class RuleJudge:
    """See ``judgement.Judge``."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def judge(self, questions: Sequence[Question]) -> Iterator[tuple[int, Judgement]]:
        for question in questions:
            yield question.number, by_scores([self._score(question, answer) for answer in question.answers])

    def _score(self, question: Question, answer: str) -> float:
        score = self.rule(question.conversation, answer)
        value = _number(score)
        if not math.isfinite(value):
            raise RolloutError(
                "the rule did not return a finite number",
                where="judge.rule",
                got=repr(score)[:100],
                fix=f"return a float; check what it does with {answer[:60]!r}",
            )
        return value

    def close(self) -> None:
        """There is nothing to release."""


def load_rule(name: str) -> Rule:
    """Import the function named by ``module:function``."""
    module, _, function = name.partition(":")
    try:
        rule = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "no such function",
            where="judge.rule",
            got=name,
            expected="module:function that Python can import",
            fix=f"{error}: check the name and PYTHONPATH",
        ) from error
    _check_callable(rule, name)
    return rule


def _number(score: object) -> float:
    """Convert any real number, including numpy's, to a float; NaN for everything else and on overflow."""
    if isinstance(score, bool) or not isinstance(score, Real):
        return math.nan
    try:
        return float(score)
    except OverflowError:
        return math.nan


def _check_callable(rule: object, name: str) -> None:
    problem = "" if callable(rule) else f"it is a {type(rule).__name__}"
    if callable(rule):
        try:
            inspect.signature(rule).bind((), "")
        except TypeError as error:
            problem = str(error)
        except ValueError:  # a builtin without a signature
            return
    if problem:
        raise ConfigError(
            "not a function of a conversation and an answer",
            where="judge.rule",
            got=f"{name}, {problem}",
            expected="(conversation, answer) -> score",
            fix="give it these two arguments",
        )


def _check(config: OnlineRunConfig) -> None:
    name = require_key(config.judge.rule, "judge.rule", "my_package.rules:score")
    if name.count(":") != 1:
        raise ConfigError(
            "not a function name",
            where="judge.rule",
            got=name,
            expected="module:function",
            fix="write it like my_package.rules:score",
        )


def _preflight(config: OnlineRunConfig, machine: Machine) -> tuple[str, ...]:
    load_rule(config.judge.rule or "")
    return ()


RULE = JudgeKind(
    build=lambda settings, shared, own, logs: RuleJudge(load_rule(settings.rule or "")),
    check=_check,
    preflight=_preflight,
    gives_scores=True,
)
