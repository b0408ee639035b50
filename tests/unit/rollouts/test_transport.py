# SPDX-License-Identifier: Apache-2.0
"""Servers that trickle, flood, compress or redirect cost a bounded time and memory, and never learn the key."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.rollouts import transport as module
from nemo_mcpo.rollouts.client import RefusedError, ServerPool
from nemo_mcpo.rollouts.completions import complete
from nemo_mcpo.rollouts.transport import BoundedTransport, is_this_machine
from tests.support.configs import server_settings
from tests.support.fake_server import Behavior, fake_server, words_of

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def raw_server(send: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request and then runs a function until its client disconnects."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(1 << 16)
                    send(connection)
                except OSError:
                    continue

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.close()


def pool(*urls: str, **changes) -> ServerPool:
    return ServerPool(urls, server_settings(**{"retry_seconds": 0.01, "timeout_seconds": 5.0} | changes))


def ask(client):
    return complete(client, "m", [1, 2], temperature=1.0, top_p=1.0, seed=1, max_tokens=5)


def trickle(beginning: bytes) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(beginning)
        for _ in range(600):
            time.sleep(0.02)
            connection.sendall(b"x")

    return send


@pytest.mark.parametrize("beginning", [HEAD + b"Content-Length: 600\r\n\r\n", HEAD + b"X-Long: "])
def test_a_reply_that_trickles_is_given_up_in_time(beginning):
    """Each read takes 0.02 s, but the whole reply would take 12 s."""
    with raw_server(trickle(beginning)) as url:
        started = time.monotonic()
        with pytest.raises(RolloutError, match=r"the whole reply took too long|timed out"):
            pool(url, timeout_seconds=0.3).ask(ask)
        assert time.monotonic() - started < 6.0


def flood(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(100):
        connection.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")


@pytest.mark.parametrize(
    ("send", "message"),
    [
        (flood, "more than 16 MiB"),
        (lambda one: one.sendall(HEAD + b"Content-Length: 100000000\r\n\r\n" + bytes(1 << 16)), "has 100000000 bytes"),
    ],
)
def test_a_reply_of_100_megabytes_is_refused(send, message):
    with raw_server(send) as url, pytest.raises(RefusedError, match=message):
        pool(url).ask(ask)


def test_a_stream_is_bounded_too():
    with raw_server(flood) as url:
        client = httpx.Client(transport=BoundedTransport(url, 5.0, max_bytes=3 << 20))
        with client.stream("GET", url) as reply, pytest.raises(module.UnusableReplyError, match="3 MiB"):
            for part in reply.iter_raw():
                assert part


def test_compressed_replies_are_refused():
    body = gzip.compress(bytes(1 << 20))
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n"
    with raw_server(lambda one: one.sendall(head + body)) as url, pytest.raises(RefusedError, match="compressed"):
        pool(url).ask(ask)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret")
    elsewhere = Behavior(words_of, takes_tokens=True)
    with fake_server(elsewhere) as other:
        location = {"Location": f"{other}/completions"}
        with (
            fake_server(Behavior(lambda body: (status, "", location), takes_tokens=True)) as url,
            pytest.raises(RolloutError, match="redirects requests") as caught,
        ):
            pool(url, api_key_env="A_KEY").ask(ask)
    assert caught.value.got == f"to {other}/completions" and "server.urls" in caught.value.fix
    assert elsewhere.requests == []


@pytest.mark.parametrize("body", ["[" * 100_000, '{"choices": ' + "1" * 5000 + "}", '{"choices": [', "\ud800", "null"])
def test_replies_that_are_no_json_have_a_short_reason(body):
    content = body.encode("utf-8", "surrogatepass")
    head = HEAD + b"Content-Length: " + str(len(content)).encode() + b"\r\n\r\n"
    with raw_server(lambda one: one.sendall(head + content)) as url, pytest.raises(RefusedError) as raised:
        pool(url).ask(ask)
    assert 0 < len(str(raised.value)) < 300


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("host", ["127.0.0.1", "node17.example.com"])
def test_no_request_goes_through_a_proxy(name, host, monkeypatch):
    """Not even for a public address, such as those of many cluster nodes."""
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    connect = socket.create_connection
    here = lambda address, *options, **more: connect(("127.0.0.1", address[1]), *options, **more)  # noqa: E731
    monkeypatch.setattr(socket, "create_connection", here)
    with fake_server(Behavior(words_of, takes_tokens=True)) as url:
        assert pool(url.replace("127.0.0.1", host)).ask(ask).finished


def test_this_machine():
    assert is_this_machine("::1") and is_this_machine("fe80::1%eth0") is is_this_machine("node17") is False


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://127.0.0.1:9/v1", False),
        ("http://localhost:9/v1", False),
        ("https://10.0.0.3/v1", False),
        ("http://10.0.0.3/v1", True),
    ],
)
def test_a_warning_about_a_key_over_plain_http(url, warned, monkeypatch, caplog):
    monkeypatch.setenv("A_KEY", "secret")
    pool(url, api_key_env="A_KEY")
    assert ("the key in A_KEY is sent unencrypted" in caplog.text) is warned and "secret" not in caplog.text
    caplog.clear()
    pool(url)
    assert caplog.text == ""
