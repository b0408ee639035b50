# SPDX-License-Identifier: Apache-2.0
"""Chats are read whole, in one piece or as an event stream, and not without end."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.rollouts import chat_reply
from nemo_mcpo.rollouts.client import RefusedError, Reply, ServerPool, chat
from tests.support.configs import online
from tests.support.fake_server import Behaviour, fake_server

TEXT = "Both are fine \u2028 ü.\n\n<verdict>A</verdict>"


def ask(url: str, max_tokens: int = 5, seconds: float = 5.0) -> Reply:
    keys = {"rollouts.server.retry_seconds": 0.1, "rollouts.server.timeout_seconds": seconds}
    pool = ServerPool([url], online(keys).rollouts.server)
    return pool.ask(lambda client: chat(client, "m", [{"role": "user", "content": "Hi"}], max_tokens=max_tokens))


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("finish", ["stop", "length"])
def test_one_piece_is_asked_for_and_a_stream_is_understood(streams, finish):
    behaviour = Behaviour(lambda body: TEXT, streams=streams, finish=finish)
    with fake_server(behaviour) as url:
        assert ask(url) == Reply(TEXT, finish == "stop")
    assert [body.get("stream", False) for body in behaviour.requests] == [False]


def message(**fields) -> str:
    return json.dumps({"choices": [{"message": fields, "finish_reason": "stop"}]})


def test_a_thought_beside_the_content_is_no_answer():
    with fake_server(Behaviour(lambda body: (200, message(content=None, reasoning_content="A")))) as url:
        assert ask(url) == Reply("", True)
    with fake_server(Behaviour(lambda body: (200, message(content="B", reasoning_content="A")))) as url:
        assert ask(url) == Reply("B", True)


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
def test_what_is_no_completion_is_refused(body):
    with fake_server(Behaviour(lambda _: (200, body))) as url, pytest.raises(RefusedError):
        ask(url)


@pytest.mark.parametrize("streams", [False, True])
def test_a_reply_has_an_end(monkeypatch, streams):
    monkeypatch.setattr(chat_reply, "BYTES_BESIDE", 1000)
    with fake_server(Behaviour(lambda body: "word " * 10_000, streams=streams)) as url:
        with pytest.raises(RefusedError, match="the reply is longer than 3048 bytes"):
            ask(url, max_tokens=1)
        assert len(ask(url, max_tokens=10_000).text) == 50_000


def test_a_reply_that_drips_is_given_up(monkeypatch):
    clock = iter(range(0, 10_000, 3))
    monkeypatch.setattr(chat_reply, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    with fake_server(Behaviour(lambda body: "late")) as url, pytest.raises(RolloutError, match="longer than 2 s"):
        ask(url, seconds=2.0)


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ('data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
        ('data: {"choices": [{"delta": {"content": "A"}}]}\n\n', "finish_reason None"),
        ("data: {no json\n\n", "JSONDecodeError"),
        ("", "finish_reason None"),
    ],
)
def test_streams_that_break_off_are_refused(monkeypatch, events, problem):
    behaviour = Behaviour(lambda body: "A", streams=True)
    monkeypatch.setattr(chat_reply, "_bounded", lambda *_: [events.encode()])
    with fake_server(behaviour) as url, pytest.raises(RefusedError, match=problem):
        ask(url)
