# SPDX-License-Identifier: Apache-2.0
"""Servers that do not sample from the policy's distribution are detected."""

from __future__ import annotations

import random

import pytest

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.rollouts.client import ServerPool
from nemo_mcpo.rollouts.probe import ask_tokens
from nemo_mcpo.rollouts.samples import Prompt
from nemo_mcpo.rollouts.sampling_check import FLAT, check_sampling
from nemo_mcpo.rollouts.serving import Serving
from tests.support.configs import server_settings
from tests.support.fake_server import NEARLY_GREEDY, Behavior, fake_server, words_of


def checked(behavior: Behavior, vocabulary_size: int = 32_000) -> Behavior:
    with fake_server(behavior) as url:
        pool = ServerPool([url], server_settings(retry_seconds=0.1))
        check_sampling(Serving(pool, "m", ()), ask_tokens, Prompt((1, 2)), vocabulary_size)
    return behavior


def policy(top_k: int, vocabulary: int = 32_000):
    """Draws uniformly at every temperature but the smallest; 48 tokens, or one if one is requested."""

    def answer(body) -> str:
        if body["temperature"] <= NEARLY_GREEDY:
            return "red " * body["max_tokens"]
        draw = random.Random(str((body["seed"], body["temperature"])))
        return " ".join(str(draw.randrange(min(top_k, vocabulary))) for _ in range(body["max_tokens"]))

    return answer


def test_a_server_without_top_k():
    behavior = checked(Behavior(policy(32_000), takes_tokens=True, finish="length"))
    assert sum(body["temperature"] == FLAT for body in behavior.requests) == 64


@pytest.mark.parametrize("top_k", [5, 20, 50])
def test_a_top_k_that_was_not_requested(top_k):
    with pytest.raises(RolloutError) as caught:
        checked(Behavior(policy(top_k), takes_tokens=True, finish="length"))
    assert "pairs among 64 tokens" in caught.value.got and "generation_config.json" in caught.value.fix


def test_small_vocabularies_are_not_judged_by_it():
    checked(Behavior(policy(50), takes_tokens=True, finish="length"), vocabulary_size=300)


def test_a_server_that_refuses_the_flat_temperature():
    refuses = lambda body: (400, "at most 2") if body["temperature"] > 2 else policy(50)(body)  # noqa: E731
    checked(Behavior(refuses, takes_tokens=True, finish="length"))


def test_greedy_answers_that_differ_now_and_then():
    """As on a GPU, if two tokens are almost equally likely."""
    answers = iter(["one way", "another way", "one way"] + ["another way"] * 9)

    def behave(body) -> str:
        greedy = body["temperature"] <= NEARLY_GREEDY and body["max_tokens"] > 1
        return next(answers) if greedy else words_of(body)

    checked(Behavior(behave, takes_tokens=True))


@pytest.mark.parametrize(
    ("usage", "what"),
    [
        ({"completion_tokens": 60}, "60 tokens, but max_tokens is 48"),
        ({"completion_tokens": 20}, "20 tokens, but max_tokens is 1"),
        ({"completion_tokens": 1}, "finished"),
        ({"prompt_tokens": 3}, "prompt"),
    ],
)
def test_limits_and_prompts(usage, what):
    with pytest.raises(RolloutError) as caught:
        checked(Behavior(words_of, takes_tokens=True, usage=lambda body, text: usage))
    assert what in caught.value.what and caught.value.got and caught.value.fix
