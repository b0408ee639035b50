# SPDX-License-Identifier: Apache-2.0
"""A function by name as the judge."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from nemo_mcpo.errors import ConfigError, RolloutError
from nemo_mcpo.judging.judgement import Question
from nemo_mcpo.judging.rule import RuleJudge, load_rule
from nemo_mcpo.records import Message

QUESTION = Question(4, (Message("user", "What is 347+585?"),), ("it is 931", "it is 932", "no"))


def test_scores_decide():
    seen = []

    def rule(conversation, answer):
        seen.append((conversation, answer))
        return len(answer) + answer.endswith("2")

    ((number, judgement),) = RuleJudge(rule).judge([QUESTION])
    assert number == 4
    assert judgement.order == (1, 0, 2)
    assert seen == [(QUESTION.conversation, answer) for answer in QUESTION.answers]


@pytest.mark.parametrize("score", [2, np.float32(2), np.int64(2), Fraction(4, 2)])
def test_numbers_of_any_kind(score):
    ((_, judgement),) = RuleJudge(lambda conversation, answer: score).judge([QUESTION])
    assert judgement.scores == (2.0, 2.0, 2.0) and all(type(one) is float for one in judgement.scores)


@pytest.mark.parametrize("score", [math.nan, math.inf, None, True, np.bool_(True), "high", "0.5", 1j, [1.0], 10**400])
def test_not_a_score(score):
    with pytest.raises(RolloutError, match="finite number"):
        list(RuleJudge(lambda conversation, answer: score).judge([QUESTION]))


def test_the_task_of_the_quickstart():
    rule = load_rule("nemo_mcpo.evaluation.arithmetic:judge_answer")
    right, lucky, near, far = (
        "ones 7+5=12, tens 4+8+1=13, hundreds 3+5+1=9, answer 932",
        "ones 7+5=11, tens 4+8+1=13, hundreds 3+5+1=9, answer 932",
        "ones 7+5=12, tens 4+8=12, hundreds 3+5+1=9, answer 922",
        "no idea",
    )
    scores = [rule(QUESTION.conversation, answer) for answer in (right, lucky, near, far)]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4


@pytest.mark.parametrize("name", ["no_such_module:rule", "math:no_such_function"])
def test_no_such_function(name):
    with pytest.raises(ConfigError, match="no such function") as caught:
        load_rule(name)
    assert (caught.value.where, caught.value.got) == ("judge.rule", name)


@pytest.mark.parametrize(("name", "problem"), [("math:pi", "it is a float"), ("math:sin", "too many positional")])
def test_not_a_rule(name, problem):
    with pytest.raises(ConfigError, match="not a function") as caught:
        load_rule(name)
    assert caught.value.where == "judge.rule" and caught.value.got.startswith(f"{name}, {problem}")
