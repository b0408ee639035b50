# SPDX-License-Identifier: Apache-2.0
"""Requests find a working server, wait for one that is not ready yet, and give up with a reason."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from threading import Barrier

import pytest

from nemo_mcpo.errors import ConfigError, RolloutError
from nemo_mcpo.platform.workers import in_threads
from nemo_mcpo.rollouts.client import RefusedError, Reply, ServerPool
from nemo_mcpo.rollouts.completions import complete, converse
from tests.support.configs import server_settings
from tests.support.fake_server import Behavior, fake_server, words_of

BODY = {"temperature": 1.0, "top_p": 1.0, "seed": 1, "max_tokens": 5}


def settings(**changes):
    return server_settings(**{"retry_seconds": 5.0, "timeout_seconds": 5.0} | changes)


def ask_chat(client) -> Reply:
    return converse(client, "m", [{"role": "user", "content": "Hi"}], **BODY)


def test_chat_and_tokens():
    with fake_server(Behavior(words_of, takes_tokens=True, finish="length")) as url:
        pool = ServerPool([url], settings())
        assert pool.ask(ask_chat).finished is False
        reply = pool.ask(lambda client: complete(client, "m", [1, 2], **BODY))
        assert len(reply.text.split()) == 6
        pool.close()


def test_many_requests_go_to_the_least_busy_server():
    """Each of two servers answers only once it has two requests, so four concurrent ones must be split evenly."""
    with ExitStack() as stack:
        behaviors = []
        for _ in range(2):
            barrier = Barrier(2, timeout=60.0)
            behaviors.append(Behavior(lambda body, barrier=barrier: f"{barrier.wait()}"))
        urls = [stack.enter_context(fake_server(behavior)) for behavior in behaviors]
        pool = ServerPool(urls, settings(timeout_seconds=90.0))
        replies = [reply for some in in_threads(lambda _: pool.ask(ask_chat), range(4), 4) for reply in some]
        assert sorted(reply.text for reply in replies) == ["0", "0", "1", "1"]
        assert [len(behavior.requests) for behavior in behaviors] == [2, 2]


def test_requests_of_a_prompt_spill_over_from_a_server_that_is_slow():
    """No server answers before all twelve requests have arrived: the first one gets nine, the next one the others."""
    barrier = Barrier(12, timeout=60.0)
    behaviors = [Behavior(lambda body: f"{barrier.wait()}") for _ in range(4)]
    with ExitStack() as stack:
        urls = [stack.enter_context(fake_server(behavior)) for behavior in behaviors]
        pool = ServerPool(urls, settings(concurrency=4, timeout_seconds=90.0))
        replies = list(in_threads(lambda _: pool.ask(ask_chat, key="prompt"), range(12), 12))
        assert sum(map(len, replies)) == 12
        assert sorted(len(behavior.requests) for behavior in behaviors) == [0, 0, 3, 9]
        pool.close()


def test_a_prompt_leaves_a_server_that_fails():
    failing = Behavior(lambda body: (503, "busy"))
    with fake_server(failing) as bad, fake_server(Behavior(lambda body: "fine")) as good:
        pool = ServerPool([bad, good], settings())
        assert [pool.ask(ask_chat, key="prompt") for _ in range(4)] == [Reply("fine", True)] * 4
        assert len(failing.requests) == 1


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_server_that_recovers(status):
    answers = iter([(status, "{}"), (status, "busy"), "fine"])
    with fake_server(Behavior(lambda body: next(answers))) as url:
        assert ServerPool([url], settings()).ask(ask_chat) == Reply("fine", True)


def test_another_server_takes_over():
    with fake_server(Behavior(words_of)) as url:
        dead = "http://127.0.0.1:9/v1"
        pool = ServerPool([dead, url], settings())
        started = time.monotonic()
        for _ in range(5):
            assert pool.ask(ask_chat).finished
            time.sleep(0.6)  # the dead one has rested
        assert time.monotonic() - started < 3.0 + 4.0


def test_no_server_replies():
    pool = ServerPool(["http://127.0.0.1:9/v1"], settings(retry_seconds=0.3))
    with pytest.raises(RolloutError, match="no server replies") as raised:
        pool.ask(ask_chat)
    assert "APIConnectionError" in str(raised.value) and "http://127.0.0.1:9/v1" in str(raised.value)


def test_a_slow_server_is_given_up():
    slow = Behavior(lambda body: time.sleep(1.0) or "late")
    with fake_server(slow) as url, pytest.raises(RolloutError, match="timed out"):
        ServerPool([url], settings(timeout_seconds=0.2, retry_seconds=0.3)).ask(ask_chat)


@pytest.mark.parametrize(
    "answer",
    [
        (400, json.dumps({"error": {"message": "the prompt is longer than 4096 tokens"}})),
        (404, "no such model"),
        (200, "<html>garbage</html>"),
        (200, '{"choices": []}'),
    ],
)
def test_refusals_are_not_retried(answer):
    behavior = Behavior(lambda body: answer, takes_tokens=True)
    with fake_server(behavior) as url:
        pool = ServerPool([url], settings())
        with pytest.raises(RefusedError):
            pool.ask(ask_chat)
        with pytest.raises(RefusedError):
            pool.ask(lambda client: complete(client, "m", [1, 2], **BODY))
        assert len(behavior.requests) == 2


@pytest.mark.parametrize(
    ("status", "what", "named"),
    [(401, "rejects the API key", "server.api_key_env"), (302, "redirects", "server.urls")],
)
def test_what_would_fail_every_request_ends_the_stage(status, what, named):
    behavior = Behavior(lambda body: (status, "{}", {"Location": "http://127.0.0.1:9/"}))
    with fake_server(behavior) as url, pytest.raises(RolloutError, match=what) as caught:
        ServerPool([url], settings(retry_seconds=60.0)).ask(ask_chat)
    assert named in caught.value.fix
    assert len(behavior.requests) == 1


def test_the_key_is_read_from_the_environment(monkeypatch):
    with pytest.raises(ConfigError) as caught:
        ServerPool(["http://127.0.0.1:9/v1"], settings(api_key_env="NO_SUCH_KEY"))
    assert (caught.value.where, caught.value.got) == ("server.api_key_env", "NO_SUCH_KEY")
    monkeypatch.setenv("A_KEY", "secret")
    pool = ServerPool(["http://127.0.0.1:9/v1"], settings(api_key_env="A_KEY"))
    assert [client.api_key for _, client in pool.each(lambda client: client)] == ["secret"]
