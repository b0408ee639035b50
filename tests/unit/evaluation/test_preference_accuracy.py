# SPDX-License-Identifier: Apache-2.0
import itertools
import random

import pytest
import torch

from nemo_mcpo.data.tokenization import encode_answers
from nemo_mcpo.evaluation.answers import prompt_tokens
from nemo_mcpo.evaluation.arithmetic import draw_problems, worked_answer, wrong_answers
from nemo_mcpo.evaluation.intervals import clustered_rate_interval
from nemo_mcpo.evaluation.preference_accuracy import RankedAnswers, answer_logps, preference_accuracy
from nemo_mcpo.rollouts.generation import Policy

PROBLEMS = draw_problems(12, random.Random(8))
ITEMS = [
    RankedAnswers(
        problem.question, worked_answer(problem), tuple(itertools.islice(wrong_answers(problem), 1 + number % 4))
    )
    for number, problem in enumerate(PROBLEMS)
]


def direct_logp(policy: Policy, question: str, answer: str) -> float:
    """transformers' own mean loss of one unpadded sequence, times its tokens."""
    prompt, completion = prompt_tokens(policy.chat, [question])[0], encode_answers(policy.chat, [answer])[0]
    labels = [-100] * len(prompt) + completion
    with torch.no_grad():
        loss = policy.model(torch.tensor([prompt + completion]), labels=torch.tensor([labels])).loss
    return -loss.item() * len(completion)


def test_log_probs_equal_transformers(policy):
    questions, answers = [item.question for item in ITEMS], [item.right for item in ITEMS]
    answers[0] = "short"
    expected = [direct_logp(policy, *pair) for pair in zip(questions, answers, strict=True)]
    assert answer_logps(policy, questions, answers, batch_size=5) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_accuracy_equals_the_direct_computation(policy, batch_size):
    outcomes = []
    for item in ITEMS:
        right = direct_logp(policy, item.question, item.right)
        outcomes.append([right > direct_logp(policy, item.question, wrong) for wrong in item.wrong])
    assert preference_accuracy(policy, ITEMS, batch_size) == clustered_rate_interval(outcomes)


def test_a_tie_counts_as_wrong(policy):
    items = [RankedAnswers("What is 1+1?", "answer 2", ("answer 2",))] * 4
    assert preference_accuracy(policy, items, batch_size=1).mean == 0.0
