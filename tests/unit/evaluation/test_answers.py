# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from nemo_mcpo.evaluation.answers import Decoding, exact_match, generate_answers, prompt_tokens
from nemo_mcpo.evaluation.arithmetic import Problem, is_right, worked_answer
from nemo_mcpo.evaluation.intervals import rate_interval

PROBLEMS = [Problem(347, 585), Problem(100, 200), Problem(999, 999), Problem(123, 456)]
QUESTIONS = ["What is 347+585?", "Hi?", "What is 100+200?", "A rather longer question: what is 999+999?"]
GREEDY = Decoding(temperature=0.0, max_tokens=8, batch_size=4)


def test_only_the_final_number_counts():
    answers = [worked_answer(PROBLEMS[0]), "answer 300", "ones 9+9=18, answer 1988", "579"]
    assert exact_match(PROBLEMS, answers, is_right) == rate_interval(2, 4)


def test_every_problem_needs_an_answer():
    with pytest.raises(ValueError, match="zip"):
        exact_match(PROBLEMS, ["answer 932"], is_right)


def test_padded_batches_give_the_same_answers_as_single_prompts(policy):
    """Greedy answers in one padded batch equal those of transformers, prompt by prompt."""
    expected = []
    for ids in prompt_tokens(policy.chat, QUESTIONS):
        output = policy.model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=8, eos_token_id=policy.chat.end_of_turn
        )
        expected.append(policy.chat.tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True).strip())
    assert generate_answers(policy, QUESTIONS, GREEDY) == expected


def test_prompts_are_those_of_the_chat_template(policy):
    message = [{"role": "user", "content": QUESTIONS[0]}]
    tokenizer = policy.chat.tokenizer
    expected = tokenizer.apply_chat_template(message, add_generation_prompt=True)
    assert prompt_tokens(policy.chat, QUESTIONS[:1]) == [expected]


def test_the_seed_decides_the_samples(policy):
    decodings = [Decoding(temperature=1.0, max_tokens=8, batch_size=3, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (generate_answers(policy, QUESTIONS, decoding) for decoding in decodings)
    assert first == again != other


def test_repeated_questions_are_sampled_independently(policy):
    answers = generate_answers(policy, QUESTIONS[:1] * 8, Decoding(1.0, 12, batch_size=4, seed=1))
    assert len(set(answers)) > 4


def test_the_global_random_state_is_preserved(policy):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    generate_answers(policy, QUESTIONS, Decoding(1.0, 4, batch_size=4, seed=1))
    assert torch.equal(torch.rand(3), expected)
