# SPDX-License-Identifier: Apache-2.0
import itertools
import random

import pytest

from nemo_mcpo.data.formats.nectar import parse_dialogue
from nemo_mcpo.evaluation.arithmetic import (
    FORGET_CARRY,
    Mistake,
    Problem,
    draw_problems,
    final_number,
    hurried_work,
    is_right,
    nectar_record,
    rank_answers,
    score,
    worked_answer,
    wrong_answers,
)

PROBLEMS = draw_problems(500, random.Random(5))


def test_worked_answers_are_right_and_their_steps_are_equations():
    for problem in PROBLEMS:
        text = worked_answer(problem)
        assert is_right(problem, text)
        for step in text.split(", ")[:-1]:
            left, right = step.split(" ")[1].split("=")
            assert sum(map(int, left.split("+"))) == int(right)


def test_problems_differ_in_more_than_order():
    pairs = {frozenset((problem.left, problem.right)) for problem in PROBLEMS}
    assert len(pairs) == len(PROBLEMS)
    assert all(100 <= number <= 999 for pair in pairs for number in pair)


def test_the_same_seed_draws_the_same_problems():
    assert draw_problems(500, random.Random(5)) == PROBLEMS
    assert draw_problems(500, random.Random(6)) != PROBLEMS


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        (Mistake("tens", "forget"), "ones 7+5=12, tens 4+8=12, hundreds 3+5+1=9, answer 922"),
        (Mistake("hundreds", "forget"), "ones 7+5=12, tens 4+8+1=13, hundreds 3+5=8, answer 832"),
        (Mistake("ones", "less"), "ones 7+5=11, tens 4+8+1=13, hundreds 3+5+1=9, answer 931"),
        (Mistake("tens", "more"), "ones 7+5=12, tens 4+8+1=14, hundreds 3+5+1=9, answer 942"),
    ],
)
def test_mistakes_are_carried_through(mistake, text):
    assert worked_answer(Problem(347, 585), frozenset({mistake})) == text


def test_an_invented_carry():
    assert worked_answer(Problem(111, 222), frozenset({Mistake("tens", "invent")})).startswith(
        "ones 1+2=3, tens 1+2+1=4"
    )


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("ones 7+5=12, tens 4+8+1=13, hundreds 3+5+1=9, answer 932", 932),
        ("answer 932 ", 932),
        ("answer 932, or answer 822", 822),
        ("answer 113+1", None),
        ("answer", None),
        ("932", None),
        ("", None),
        ("answer " + "9" * 5000, None),
    ],
)
def test_final_number(text, number):
    assert final_number(text) == number


def test_a_hurried_writer_is_wrong_about_as_often_as_carries_are_forgotten():
    generator = random.Random(7)
    carrying = [problem for problem in PROBLEMS if problem.left % 10 + problem.right % 10 >= 10]
    forgotten = sum("+1=" not in hurried_work(problem, generator).split(", ")[1] for problem in carrying)
    assert forgotten / len(carrying) == pytest.approx(FORGET_CARRY, abs=0.1)


def test_wrong_answers_are_wrong_different_and_enough():
    for problem in [*PROBLEMS, Problem(100, 100), Problem(999, 999), Problem(100, 999)]:
        texts = list(itertools.islice(wrong_answers(problem), 6))
        assert len(set(texts)) == 6
        assert not any(is_right(problem, text) for text in texts)


def test_ranks_follow_the_distance_and_the_right_answer_is_first():
    problem = Problem(347, 585)
    sampled = [
        "nonsense",
        "answer 932",
        worked_answer(problem),
        worked_answer(problem, frozenset({Mistake("ones", "more")})),
    ]
    ranked = rank_answers(problem, sampled, 7)
    assert ranked[0] == worked_answer(problem)
    assert ranked[-1] == "nonsense"
    assert "answer 932" not in ranked  # a right number with wrong steps
    assert len(set(ranked)) == 7
    assert [score(problem, text) for text in ranked] == sorted((score(problem, text) for text in ranked), reverse=True)


def test_nectar_schema():
    problem = Problem(347, 585)
    ranked = rank_answers(problem, ["answer 900"], 7)
    record = nectar_record(problem, ranked, ["answer 900"])
    assert record["prompt"] == "\n\nHuman: What is 347+585? \n\nAssistant:"
    assert [answer["rank"] for answer in record["answers"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [answer["answer"] for answer in record["answers"]] == ranked
    assert {answer["answer"] for answer in record["answers"] if answer["model"] == "sft"} == {"answer 900"}
    assert parse_dialogue(record["prompt"])[-1].content == problem.question
    assert Problem.read(record["prompt"]) == problem
