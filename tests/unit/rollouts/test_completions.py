# SPDX-License-Identifier: Apache-2.0
"""Replies of vLLM, SGLang, TensorRT-LLM and transformers, each in its own form."""

from __future__ import annotations

import json

import pytest

from nemo_mcpo.rollouts.client import RefusedError, Reply, ServerPool
from nemo_mcpo.rollouts.completions import complete, converse
from tests.support.configs import online
from tests.support.fake_server import Behavior, fake_server, words_of

BODY = {"temperature": 1.0, "top_p": 1.0, "seed": 1, "max_tokens": 5}
MESSAGES = [{"role": "user", "content": "Hi"}]


def ask_tokens(client) -> Reply:
    return complete(client, "m", [1, 2], **BODY)


def ask_chat(client) -> Reply:
    return converse(client, "m", MESSAGES, **BODY)


def reply_of(behavior: Behavior, ask=ask_tokens, fields=None) -> Reply:
    with fake_server(behavior) as url:
        pool = ServerPool([url], online({"rollouts.server.retry_seconds": 0.1}).rollouts.server)
        pool.learn(url, **(fields or {}))
        return pool.ask(ask)


@pytest.mark.parametrize("ask", [ask_tokens, ask_chat])
@pytest.mark.parametrize("stop", ["stop_reason", "matched_stop"])
def test_vllm_and_sglang(ask, stop):
    behavior = Behavior(
        lambda body: "red",
        takes_tokens=True,
        ids=lambda body, text: [7, 8, 2],
        extra=lambda body, text: {"prompt_token_ids": [1, 2], stop: 2},
        usage=lambda body, text: {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
    )
    expected = Reply("red", True, (7, 8, 2), 2, 3, (1, 2), 2)
    assert reply_of(behavior, ask, {"return_token_ids": True}) == expected
    assert reply_of(behavior, ask).tokens is None


def test_trtllm_gives_ids_in_place_of_text():
    behavior = Behavior(
        words_of, takes_tokens=True, ids=lambda body, text: [7, 8], ids_field="detokenize", finish="length"
    )
    assert reply_of(behavior, fields={"detokenize": False}) == Reply("", False, (7, 8))


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("finish", ["stop", "length"])
def test_no_stream_is_requested_but_one_is_understood(streams, finish):
    text = "red\nblue \u2028 ü.\n\n<verdict>A</verdict>"
    behavior = Behavior(lambda body: text, streams=streams, finish=finish)
    assert reply_of(behavior, ask_chat) == Reply(text, finish == "stop")
    assert [body.get("stream", False) for body in behavior.requests] == [False]


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ('data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
        ('data: {"choices": [{"delta": {"content": "A"}}]}\n\n', "finish_reason None"),
        ("data: {no json\n\n", "JSONDecodeError"),
        ("", "finish_reason None"),
    ],
)
def test_streams_that_break_off_are_refused(events, problem):
    answer = (200, events, {"Content-Type": "text/event-stream"})
    with pytest.raises(RefusedError, match=problem):
        reply_of(Behavior(lambda body: answer), ask_chat)


def test_counts_of_zero_are_none():
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert reply_of(Behavior(lambda body: "red", usage=lambda body, text: usage), ask_chat) == Reply("red", True)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"token_ids": "abc"}, "not a list of token ids"),
        ({"token_ids": [1, True]}, "not a list of token ids"),
        ({"token_ids": [1, -1]}, "not a list of token ids"),
        ({"token_ids": [1.0]}, "not a list of token ids"),
        ({"finish_reason": "abort"}, "makes no sense: finish_reason 'abort'"),
        ({"finish_reason": None}, "makes no sense"),
    ],
)
def test_replies_that_make_no_sense(extra, message):
    behavior = Behavior(lambda body: "red", takes_tokens=True, extra=lambda body, text: extra)
    with pytest.raises(RefusedError, match=message):
        reply_of(behavior)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "tool_calls"])
def test_an_answer_that_the_server_split_is_refused(name):
    message = {"role": "assistant", "content": "Four.", name: [{"id": "1"}] if name == "tool_calls" else "thoughts"}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    with pytest.raises(RefusedError, match=f"parts of the answer into {name}"):
        reply_of(Behavior(lambda body: (200, json.dumps(whole))), ask_chat)
    parts = Behavior(lambda body: (200, json.dumps(whole)))
    assert reply_of(parts, lambda client: converse(client, "m", MESSAGES, whole=False, **BODY)) == Reply("Four.", True)
    message["content"] = None
    assert reply_of(parts, lambda client: converse(client, "m", MESSAGES, whole=False, **BODY)) == Reply("", True)


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        '"text"',
        "{}",
        '{"choices": [{}]}',
        '{"choices": [{"message": null, "finish_reason": "stop"}]}',
        '{"choices": {"message": "?"}}',
        '{"choices": [{"message": {"content": "A"}, "finish_reason": "tool_calls"}]}',
        '{"choices": [{"message": {"content": ["A"]}, "finish_reason": "stop"}]}',
        '{"error": {"message": "out of memory"}}',
    ],
)
def test_other_replies_are_refused(body):
    with pytest.raises(RefusedError):
        reply_of(Behavior(lambda _: (200, body)), ask_chat)
