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

from nemo_mcpo.errors import ConfigError, RolloutError
from nemo_mcpo.rollouts import transport as module
from nemo_mcpo.rollouts.client import RefusedError, ServerPool
from nemo_mcpo.rollouts.completions import complete
from nemo_mcpo.rollouts.transport import BoundedTransport, is_private, is_this_machine, proxy_of
from tests.support.configs import online
from tests.support.fake_server import Behaviour, fake_server, words_of

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def raw_server(send: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request and then does what it is told, until its client has enough."""
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
    keys = {"retry_seconds": 0.01, "timeout_seconds": 5.0} | changes
    return ServerPool(urls, online({f"rollouts.server.{name}": value for name, value in keys.items()}).rollouts.server)


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
    """Each read takes 0.02 s, and the whole reply would take 12 s."""
    with raw_server(trickle(beginning)) as url:
        started = time.monotonic()
        with pytest.raises(RolloutError, match=r"APITimeoutError: the whole reply took too long|timed out"):
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
    elsewhere = Behaviour(words_of, takes_tokens=True)
    with fake_server(elsewhere) as other:
        location = {"Location": f"{other}/completions"}
        with (
            fake_server(Behaviour(lambda body: (status, "", location), takes_tokens=True)) as url,
            pytest.raises(RolloutError, match=rf"redirects requests .got to {other}.*server.urls"),
        ):
            pool(url, api_key_env="A_KEY").ask(ask)
    assert elsewhere.requests == []


@pytest.mark.parametrize("body", ["[" * 100_000, '{"choices": ' + "1" * 5000 + "}", '{"choices": [', "\ud800", "null"])
def test_replies_that_are_no_json_have_a_short_reason(body):
    content = body.encode("utf-8", "surrogatepass")
    head = HEAD + b"Content-Length: " + str(len(content)).encode() + b"\r\n\r\n"
    with raw_server(lambda one: one.sendall(head + content)) as url, pytest.raises(RefusedError) as raised:
        pool(url).ask(ask)
    assert 0 < len(str(raised.value)) < 300


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_servers_here_and_in_private_networks_are_asked_without_a_proxy(name, monkeypatch):
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    for host in ("127.0.0.1", "localhost", "node17", "10.0.0.3", "[::1]", "192.168.1.7", "100.64.0.1"):
        assert proxy_of(f"http://{host}:8000/v1") is None
    proxy = proxy_of("http://8.8.8.8:8000/v1")
    assert proxy is not None and str(proxy.url) == "http://127.0.0.1:9"
    with fake_server(Behaviour(words_of, takes_tokens=True)) as url:
        assert pool(url).ask(ask).finished


def test_elsewhere_the_environment_decides(monkeypatch):
    addresses = {"inside.example.com": "10.0.0.1", "judge.example.com": "8.8.8.8"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port: [(0, 0, 0, "", (addresses[host], 0))])
    monkeypatch.setenv("HTTPS_PROXY", "http://user:word@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "spared.example.com")
    assert proxy_of("https://judge.example.com/v1").raw_auth == (b"user", b"word")
    assert proxy_of("https://spared.example.com/v1") is None
    assert proxy_of("https://inside.example.com/v1") is None
    assert proxy_of("http://judge.example.com/v1") is None
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"HTTPS_PROXY: a proxy of this kind.*got socks5"):
        proxy_of("https://judge.example.com/v1")


def test_names_that_nobody_knows_are_not_private(monkeypatch):
    def unknown(host, port):
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert not is_private("api.example.com") and is_private("node17") and is_private("fe80::1%eth0")
    assert is_this_machine("::1") and not is_this_machine("node17")


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://127.0.0.1:9/v1", False),
        ("http://localhost:9/v1", False),
        ("https://10.0.0.3/v1", False),
        ("http://10.0.0.3/v1", True),
    ],
)
def test_a_key_over_plain_http_is_warned_of(url, warned, monkeypatch, caplog):
    monkeypatch.setenv("A_KEY", "secret")
    pool(url, api_key_env="A_KEY")
    assert ("the key in A_KEY goes unencrypted" in caplog.text) is warned and "secret" not in caplog.text
    caplog.clear()
    pool(url)
    assert caplog.text == ""
