# SPDX-License-Identifier: Apache-2.0
"""Engine ``openai`` and its probe: samples under their keys; unreliable servers are refused."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from fnmatch import fnmatchcase

import pytest

from nemo_mcpo.data.tokenization import encode_answers, load_chat_tokenizer
from nemo_mcpo.errors import RolloutError
from nemo_mcpo.records import Message
from nemo_mcpo.rollouts.openai_engine import ATTEMPTS, OpenAIEngine
from nemo_mcpo.rollouts.samples import Prompt, SampleKey, SampleRequest, Sampling
from tests.support.configs import server_settings
from tests.support.fake_server import Behavior, fake_server, words_of

SAMPLING = Sampling(max_tokens=20, top_p=0.9, seed=3)


@pytest.fixture(scope="module")
def policy(inputs) -> str:
    return str(inputs / "model")


@pytest.fixture(scope="module")
def chat(policy):
    return load_chat_tokenizer(policy)


def requests(number: int) -> list[SampleRequest]:
    prompts = [Prompt((5, 6, prompt), (Message("user", f"Question {prompt}"),)) for prompt in range(number)]
    return [
        SampleRequest(SampleKey(0, prompt_id, temperature, 0), prompt)
        for prompt_id, prompt in enumerate(prompts)
        for temperature in (0.6, 1.0)
    ]


def generated(policy, behavior: Behavior, wanted, done=(), **changes):
    with fake_server(behavior) as url:
        settings = server_settings(**{"urls": [url], "retry_seconds": 3.0, "concurrency": 4} | changes)
        with closing(OpenAIEngine(policy, SAMPLING, settings, logs=None)) as engine:
            return [sample for samples in engine.generate(wanted, done) for sample in samples]


@pytest.mark.parametrize("takes_tokens", [True, False])
def test_every_request_once(policy, takes_tokens):
    behavior = Behavior(words_of, models=[policy], takes_tokens=takes_tokens)
    wanted = requests(5)
    samples = generated(policy, behavior, wanted, done={wanted[0].key})
    assert sorted(sample.key for sample in samples) == sorted(request.key for request in wanted[1:])
    assert all(sample.finished and sample.text and not sample.problem for sample in samples)
    asked = [body for body in behavior.requests if body["max_tokens"] == SAMPLING.max_tokens]
    assert len(asked) == len(wanted) - 1
    assert all(body["top_p"] == 0.9 and body["model"] == policy for body in asked)
    assert len({body["seed"] for body in asked}) == len(asked)
    assert all(("prompt" in body) is takes_tokens for body in asked)


def test_the_same_seeds_again(policy):
    wanted = requests(3)
    first = generated(policy, Behavior(words_of), wanted)
    assert sorted(first, key=lambda sample: sample.key) == sorted(
        generated(policy, Behavior(words_of), wanted), key=lambda sample: sample.key
    )


def test_tokens_are_counted_without_the_end_of_turn(policy, chat):
    (sample,) = generated(policy, Behavior(words_of), requests(1)[:1])
    assert sample.num_tokens == len(encode_answers(chat, [sample.text])[0]) - 1
    assert sample.tokens is None and sample.counted is None


def letters_of(body) -> str:
    """Text of at most 12 letters, one token each, within the requested limit."""
    return words_of(body)[: min(12, body["max_tokens"])].strip()


def is_cut(body) -> bool:
    return body["max_tokens"] <= 12


def by_letters(chat, **changes) -> Behavior:
    """A server whose policy draws single letters, which encoding its text would merge."""

    def ids(body, text):
        own = [encode_answers(chat, [letter])[0][0] for letter in text]
        return own if is_cut(body) else [*own, chat.end_of_turn]

    keys = {"takes_tokens": True, "ids": ids, "extra": lambda body, text: {"finish_reason": finish_of(body)}}
    return Behavior(letters_of, **(keys | changes))


def finish_of(body) -> str:
    return "length" if is_cut(body) else "stop"


@pytest.mark.parametrize("takes_tokens", [True, False])
@pytest.mark.parametrize(
    ("ids_field", "refuses", "fields"),
    [
        ("return_token_ids", (), {"return_token_ids": True, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}),
        (
            "detokenize",
            ("return_token_ids",),
            {"detokenize": False, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
        ),
    ],
)
def test_the_tokens_that_were_drawn(policy, chat, takes_tokens, ids_field, refuses, fields):
    """Samples have the drawn tokens, not those of the encoded text, which are fewer here."""
    behavior = by_letters(chat, takes_tokens=takes_tokens, refuses=refuses, ids_field=ids_field)
    samples = generated(policy, behavior, requests(3))
    assert len(samples) == 6 and all(sample.finished for sample in samples)
    for sample in samples:
        assert [chat.tokenizer.decode([one]) for one in sample.tokens] == list(sample.text)
        assert sample.num_tokens == len(sample.tokens) <= 12
        assert sample.num_tokens > len(encode_answers(chat, [sample.text])[0]) - 1
    asked = [body for body in behavior.requests if body["max_tokens"] == SAMPLING.max_tokens]
    known = ("return_token_ids", "detokenize", "top_k", "min_p", "repetition_penalty", "generation_config")
    assert all({name: body[name] for name in known if name in body} == fields for body in asked)


@pytest.mark.parametrize(
    ("refuses", "fields"),
    [
        (("return_token_ids", "detokenize", "min_p"), {"generation_config"}),
        (("return_token_ids", "detokenize", "min_p", "generation_config"), {"top_k"}),
        (("return_token_ids", "detokenize", "min_p", "generation_config", "top_k"), set()),
    ],
)
def test_fields_that_a_server_refuses_are_left_out(policy, refuses, fields):
    behavior = Behavior(words_of, takes_tokens=True, refuses=refuses)
    assert all(sample.text for sample in generated(policy, behavior, requests(2)))
    asked = [body for body in behavior.requests if body["max_tokens"] == SAMPLING.max_tokens]
    standard = {"model", "prompt", "temperature", "top_p", "seed", "max_tokens"}
    assert len(asked) == 4 and all(set(body) - standard == fields for body in asked)


def test_ids_that_make_no_sense_are_requested_again_and_counted(policy, chat):
    """Answers to odd prompts contain a special token in the middle."""

    good = by_letters(chat)

    def ids(body, text):
        own, odd = good.ids(body, text), body["max_tokens"] == SAMPLING.max_tokens and body["prompt"][-1] % 2
        return [own[0], chat.tokenizer.bos_token_id, *own[1:]] if odd else own

    samples = generated(policy, by_letters(chat, ids=ids), requests(4))
    assert {sample.key.prompt_id for sample in samples if sample.problem} == {1, 3}
    assert all("special token" in sample.problem for sample in samples if sample.problem)


def test_a_prompts_samples_come_from_one_server(policy):
    behaviors = [Behavior(words_of) for _ in range(4)]
    wanted = [
        SampleRequest(SampleKey(0, number, 1.0, sample), request.prompt)
        for number, request in enumerate(requests(10)[::2])
        for sample in range(6)
    ]
    with ExitStack() as stack:
        urls = [stack.enter_context(fake_server(behavior)) for behavior in behaviors]
        samples = generated(policy, Behavior(words_of), wanted, urls=urls, concurrency=2)
    assert len(samples) == 60
    asked = [
        {body["messages"][0]["content"] for body in one.requests if body["max_tokens"] == SAMPLING.max_tokens}
        for one in behaviors
    ]
    assert sum(map(len, asked)) == len(set().union(*asked)) == 10


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
    behavior = Behavior(bad_for_odd(answer))
    samples = generated(policy, behavior, requests(4))
    failed = [sample for sample in samples if sample.problem]
    assert {sample.key.prompt_id for sample in failed} == {1, 3}
    assert all(problem in sample.problem for sample in failed)
    asked = [body for body in behavior.requests if body["max_tokens"] == SAMPLING.max_tokens]
    assert len(asked) == 4 + 4 * ATTEMPTS


def test_cut_answers_are_marked(policy):
    samples = generated(policy, Behavior(words_of, finish="length"), requests(1))
    assert [sample.finished for sample in samples] == [False, False]


def test_one_request_at_which_servers_fail_is_counted(policy):
    """A single prompt that makes the server fail does not end the run."""
    samples = generated(policy, Behavior(bad_for_odd((500, "crashed"))), requests(2), retry_seconds=60.0)
    assert {sample.key.prompt_id: bool(sample.problem) for sample in samples} == {0: False, 1: True}


def always(**fields: object) -> Behavior:
    """A server that generates as if every request had these fields."""
    return Behavior(lambda body: words_of(body | fields))


def counting(**usage: int) -> Behavior:
    return Behavior(words_of, usage=lambda body, text: usage)


@pytest.mark.parametrize(
    ("behavior", "what", "got"),
    [
        (Behavior(words_of, models=["/another/model"]), "different model", "/another/model"),
        (always(temperature=0.0), "greedy answer", "'*'"),
        (always(seed=1), "ignores the seed", "'*'"),
        (always(temperature=1.0), "temperature", "4 different answers *"),
        (
            Behavior(lambda body: words_of(body | {"temperature": body["temperature"] and 1.0})),
            "temperature",
            "8 answers at temperatures from 0.01 to 0.0001, *",
        ),
        (counting(prompt_tokens=4), "prompt", "the server's prompt has 4 tokens, the policy's has 3: *"),
        (counting(completion_tokens=99), "99 tokens", "'*'"),
        (
            Behavior(words_of, usage=lambda body, text: {"completion_tokens": min(body["max_tokens"], 6)}),
            "finished",
            "'*'",
        ),
        (Behavior(lambda body: (400, "no")), "neither", "BadRequestError: no"),
        (Behavior(lambda body: (401, "no")), "API key", "AuthenticationError: no"),
        (Behavior(lambda body: (307, "", {"Location": "http://10.0.0.1/v1"})), "redirects", "to http://10.0.0.1/v1"),
        (Behavior(lambda body: (500, "no")), "neither", "InternalServerError: no"),
        (Behavior(lambda body: (503, "no")), "no server replies", "InternalServerError: no"),
    ],
)
def test_unreliable_servers(policy, behavior, what, got):
    with pytest.raises(RolloutError) as caught:
        generated(policy, behavior, requests(2))
    error = caught.value
    assert what in error.what and fnmatchcase(str(error.got), got)
    assert error.where.startswith("http://127.0.0.1:") and error.fix


def test_no_server_at_all(policy):
    with pytest.raises(RolloutError) as caught:
        generated(policy, Behavior(words_of), requests(1), urls=["http://127.0.0.1:9/v1"])
    assert caught.value.where == "http://127.0.0.1:9/v1" and "APIConnectionError" in str(caught.value.got)
