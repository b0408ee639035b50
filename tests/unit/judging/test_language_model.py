# SPDX-License-Identifier: Apache-2.0
"""A language model as the judge: L − 1 verdicts a prompt, stored; places do not matter; failures are counted."""

from __future__ import annotations

import json

import pytest

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.judging.cache import VerdictCache
from nemo_mcpo.judging.judgement import Question
from nemo_mcpo.judging.language_model import MAX_FAILURES_IN_A_ROW, LanguageModelJudge
from nemo_mcpo.judging.ranking import Ranking
from nemo_mcpo.records import Message
from tests.support.configs import online
from tests.support.fake_server import Behaviour, fake_server, verdict_of

QUESTIONS = [
    Question(number, (Message("user", f"Question {number}"),), answers)
    for number, answers in enumerate(
        [("a", "ccc", "bb", "dddd"), ("eeee", "f"), ("gg", "hh", "i"), tuple("x" * length for length in (3, 1, 5))]
    )
]


def judged(behaviour: Behaviour, directory, questions=QUESTIONS, **changes):
    with fake_server(behaviour) as url:
        keys = {"judge.server.urls": [url], "judge.server.model": "j", "judge.server.retry_seconds": 0.1} | changes
        judge = LanguageModelJudge(online(keys).judge, VerdictCache(directory / "verdicts"), directory / "logs")
        found = dict(judge.judge(questions))
        judge.close()
    return [found[question.number] for question in questions]


@pytest.mark.parametrize("both_orders", [False, True])
def test_the_longest_wins_after_l_minus_1_comparisons(tmp_path, both_orders):
    behaviour = Behaviour(verdict_of)
    judgements = judged(behaviour, tmp_path, **{"judge.both_orders": both_orders})
    assert [judgement.order for judgement in judgements] == [(3, 0, 1, 2), (0, 1), (0, 2), (2, 0, 1)]
    assert [judgement.ties for judgement in judgements] == [0, 0, 1, 0]
    assert [judgement.win_rate for judgement in judgements] == [1.0, 1.0, 0.75, 1.0]
    assert len(behaviour.requests) == (1 + both_orders) * (3 + 1 + 2 + 2)
    assert sum(judgement.comparisons for judgement in judgements) == len(behaviour.requests)


def test_nothing_is_judged_twice(tmp_path):
    behaviour = Behaviour(verdict_of)
    assert judged(behaviour, tmp_path, QUESTIONS[:2]) == judged(behaviour, tmp_path, QUESTIONS[:2])
    assert len(behaviour.requests) == 4
    judged(behaviour, tmp_path, **{"judge.server.model": "another"})
    assert len(behaviour.requests) == 4 + 8


def test_a_judge_that_prefers_a_place_prefers_no_answer(tmp_path):
    questions = [Question(n, (Message("user", str(n)),), (f"{n} a", f"{n} b")) for n in range(60)]
    always_a = Behaviour(lambda body: "<verdict>A</verdict>")
    judgements = judged(always_a, tmp_path, questions)
    first = sum(judgement.order[0] == 0 for judgement in judgements)
    assert 15 < first < 45
    assert all(judgement.first_place == judgement.comparisons == 1 for judgement in judgements)
    both = judged(always_a, tmp_path / "both", questions[:5], **{"judge.both_orders": True})
    assert [judgement.ties for judgement in both] == [1] * 5


def test_a_verdict_is_asked_for_again_until_it_can_be_read(tmp_path):
    replies = iter(["no idea", "still none", "<verdict>B</verdict>"])
    behaviour = Behaviour(lambda body: next(replies))
    (judgement,) = judged(behaviour, tmp_path, QUESTIONS[1:2])
    assert (judgement.failures, judgement.comparisons) == (0, 1)
    assert [body["temperature"] for body in behaviour.requests] == [0.0, 0.7, 0.7]


def test_the_served_model_is_checked(tmp_path):
    with pytest.raises(RolloutError, match=r"the server has another model \(got policy, expected j"):
        judged(Behaviour(verdict_of, models=["policy"]), tmp_path)


@pytest.mark.parametrize("answer", ["no idea", (400, "too long"), (200, "not json"), ""])
def test_no_verdict_leaves_the_first_answer_and_is_counted(tmp_path, answer):
    behaviour = Behaviour(lambda body: answer)
    (judgement,) = judged(behaviour, tmp_path, QUESTIONS[:1])
    assert judgement.order[0] == 0
    assert (judgement.failures, judgement.comparisons) == (3, 0)
    # It was not stored: a better day gives a verdict.
    (judgement,) = judged(Behaviour(verdict_of), tmp_path, QUESTIONS[:1])
    assert judgement.order[0] == 3


def test_a_judge_that_never_gives_a_verdict_ends_the_stage(tmp_path):
    questions = [Question(n, (Message("user", str(n)),), ("a", "b")) for n in range(MAX_FAILURES_IN_A_ROW + 5)]
    with pytest.raises(RolloutError, match="no verdict on 25 prompts in a row"):
        judged(Behaviour(lambda body: "nothing"), tmp_path, questions)


def test_servers_that_fail_end_the_stage(tmp_path):
    with pytest.raises(RolloutError, match="no server answers"):
        judged(Behaviour(lambda body: (500, json.dumps({"error": "out of memory"}))), tmp_path)


def test_a_tie_with_the_best_is_no_negative():
    assert Ranking(0, ("tie", "first", "unparsable")).beaten == (2,)
    assert Ranking(2, ("tie", "second", "tie", "first")).beaten == (0, 1, 4)
    assert Ranking(0, ()).beaten == ()
