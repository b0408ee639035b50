# SPDX-License-Identifier: Apache-2.0
import pytest

from nemo_mcpo.evaluation.arithmetic import Problem, is_right, work
from nemo_mcpo.evaluation.exact_match import exact_match
from nemo_mcpo.evaluation.intervals import rate_interval

PROBLEMS = [Problem(347, 585), Problem(100, 200), Problem(999, 999), Problem(123, 456)]


def test_only_the_final_number_counts() -> None:
    answers = [work(PROBLEMS[0]), "answer 300", "ones 9+9=18, answer 1988", "579"]
    assert exact_match(PROBLEMS, answers, is_right) == rate_interval(2, 4)


def test_every_problem_needs_an_answer() -> None:
    with pytest.raises(ValueError, match="zip"):
        exact_match(PROBLEMS, ["answer 932"], is_right)
