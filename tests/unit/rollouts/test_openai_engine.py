# SPDX-License-Identifier: Apache-2.0
"""Engine ``openai`` and its probe: samples under their keys, servers that cannot be trusted are refused."""

from __future__ import annotations

import json

import pytest

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.models.huggingface.tiny import make_tiny_model
from nemo_mcpo.records import Message
from nemo_mcpo.rollouts.openai_engine import ATTEMPTS, OpenAIEngine
from nemo_mcpo.rollouts.samples import Prompt, SampleKey, SampleRequest, Sampling
from tests.support.configs import online
from tests.support.fake_server import Behaviour, fake_server, words_of
from tests.support.launch import write_preferences

SAMPLING = Sampling(max_tokens=20, top_p=0.9, seed=3)


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("policy")
    write_preferences(directory / "data.jsonl")
    make_tiny_model(directory / "data.jsonl", directory / "model", "1m", seed=1, vocab_size=300)
    return str(directory / "model")


def requests(number: int) -> list[SampleRequest]:
    prompts = [Prompt((5, 6, prompt), (Message("user", f"Question {prompt}"),)) for prompt in range(number)]
    return [
        SampleRequest(SampleKey(0, prompt_id, temperature, 0), prompt)
        for prompt_id, prompt in enumerate(prompts)
        for temperature in (0.6, 1.0)
    ]


def generated(policy, behaviour: Behaviour, wanted, done=(), **changes):
    with fake_server(behaviour) as url:
        keys = {"urls": [url], "retry_seconds": 3.0, "concurrency": 4} | changes
        settings = online({f"rollouts.server.{name}": value for name, value in keys.items()}).rollouts.server
        engine = OpenAIEngine(SAMPLING, settings, logs=None)
        try:
            engine.load(policy)
            return [sample for samples in engine.generate(wanted, done) for sample in samples]
        finally:
            engine.close()


@pytest.mark.parametrize("takes_tokens", [True, False])
def test_every_request_once(policy, takes_tokens):
    behaviour = Behaviour(words_of, models=[policy], takes_tokens=takes_tokens)
    wanted = requests(5)
    samples = generated(policy, behaviour, wanted, done={wanted[0].key})
    assert sorted(sample.key for sample in samples) == sorted(request.key for request in wanted[1:])
    assert all(sample.finished and sample.text and not sample.problem for sample in samples)
    asked = [body for body in behaviour.requests if body["max_tokens"] == SAMPLING.max_tokens]
    assert len(asked) == len(wanted) - 1
    assert all(body["top_p"] == 0.9 and body["model"] == policy for body in asked)
    assert len({body["seed"] for body in asked}) == len(asked)
    assert all(("prompt" in body) is takes_tokens for body in asked)


def test_the_same_seeds_again(policy):
    wanted = requests(3)
    first = generated(policy, Behaviour(words_of), wanted)
    assert sorted(first, key=lambda sample: sample.key) == sorted(
        generated(policy, Behaviour(words_of), wanted), key=lambda sample: sample.key
    )


def test_tokens_are_counted_without_the_end_of_turn(policy):
    (sample,) = generated(policy, Behaviour(lambda body: f"red {body['seed']}"), requests(1)[:1])
    assert sample.num_tokens >= 2


def bad_for_odd(answer):
    """An answer for even prompts only."""

    def behave(body):
        text = body["messages"][0]["content"]
        return answer if body["max_tokens"] == SAMPLING.max_tokens and int(text.split()[-1]) % 2 else words_of(body)

    return behave


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "empty answer"),
        ("  \n", "empty answer"),
        ((400, json.dumps({"error": {"message": "longer than the context"}})), "longer than the context"),
        ((200, "garbage"), ""),
    ],
)
def test_what_cannot_be_answered_is_counted(policy, answer, problem):
    behaviour = Behaviour(bad_for_odd(answer))
    samples = generated(policy, behaviour, requests(4))
    failed = [sample for sample in samples if sample.problem]
    assert {sample.key.prompt_id for sample in failed} == {1, 3}
    assert all(problem in sample.problem for sample in failed)
    asked = [body for body in behaviour.requests if body["max_tokens"] == SAMPLING.max_tokens]
    assert len(asked) == 4 + 4 * ATTEMPTS


def test_cut_answers_are_marked(policy):
    samples = generated(policy, Behaviour(words_of, finish="length"), requests(1))
    assert [sample.finished for sample in samples] == [False, False]


def test_one_request_at_which_servers_fail_is_counted(policy):
    """A prompt that makes the server fail must not end a night's work."""
    samples = generated(policy, Behaviour(bad_for_odd((500, "crashed"))), requests(2), retry_seconds=60.0)
    assert {sample.key.prompt_id: bool(sample.problem) for sample in samples} == {0: False, 1: True}


def greedy(body):
    return words_of(body | {"temperature": 0.0})


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (Behaviour(words_of, models=["/another/model"]), "the server has another model"),
        (Behaviour(greedy), "does not sample"),
        (Behaviour(lambda body: words_of(body | {"seed": 1})), "it ignores the seed"),
        (Behaviour(lambda body: (400, "no")), "neither tokens nor chats"),
        (Behaviour(lambda body: (500, "no")), "neither tokens nor chats"),
        (Behaviour(lambda body: (503, "no")), "no server answers"),
    ],
)
def test_servers_that_cannot_be_trusted(policy, behaviour, message):
    with pytest.raises(RolloutError, match=message):
        generated(policy, behaviour, requests(2))


def test_no_server_at_all(policy):
    with pytest.raises(RolloutError, match="no server answers"):
        generated(policy, Behaviour(words_of), requests(1), urls=["http://127.0.0.1:9/v1"])
