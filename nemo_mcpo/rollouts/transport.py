# SPDX-License-Identifier: Apache-2.0
"""HTTP to untrusted servers: bounded in time and bytes, without redirects, and never through a proxy.

httpx applies its timeout to each read, so a server that trickles bytes could hold a request forever. Here ``seconds``
bounds the whole exchange, from connecting to the last byte. That requires our own connections, which httpcore, the
part of httpx that speaks HTTP, lets us supply.

URLs are used as given: prompts and keys go to that server, whatever ``HTTP_PROXY`` says.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

CONNECT_SECONDS = 5.0
MAX_REPLY_BYTES = 16 << 20
"""Many times the size of the longest answer with its token ids and those of its prompt."""
_KEEPALIVE_SECONDS = 5.0


class UnusableReplyError(Exception):
    """A reply that retrying cannot fix: too large, or compressed although plain text was requested."""


class BoundedTransport(httpx.BaseTransport):
    """A transport for httpx; thread-safe, with one exchange at a time per thread.

    Transport errors are raised as httpcore raises them.

    Args:
        seconds: time limit of one exchange, from connecting to the last byte.
        max_bytes: maximum size of a reply's body.
    """

    def __init__(self, url: str, seconds: float, max_bytes: int = MAX_REPLY_BYTES) -> None:
        self._seconds, self._max_bytes = seconds, max_bytes
        self._deadline = _Deadline()
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context() if urlsplit(url).scheme == "https" else None,
            max_connections=None,
            keepalive_expiry=_KEEPALIVE_SECONDS,
            network_backend=_Backend(self._deadline),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._deadline.at = time.monotonic() + self._seconds
        url = request.url
        reply = self._pool.handle_request(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        body = _Body(reply, self._max_bytes)
        try:
            _check_headers(httpx.Headers(reply.headers), self._max_bytes)
        except UnusableReplyError:
            body.close()
            raise
        return httpx.Response(reply.status, headers=reply.headers, stream=body, extensions=reply.extensions)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class _Deadline(threading.local):
    """The time by which this thread's exchange must end."""

    at: float = float("inf")

    def left(self, timeout: float | None, error: type[httpcore.TimeoutException]) -> float:
        """Seconds left for the next operation."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise error("the whole reply took too long")
        return left if timeout is None else min(timeout, left)


class _Backend(httpcore.SyncBackend):
    """Opens connections on which every operation respects the deadline."""

    def __init__(self, deadline: _Deadline) -> None:
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        timeout = self._deadline.left(timeout, httpcore.ConnectTimeout)
        stream = super().connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, self._deadline)


class _Stream(httpcore.NetworkStream):
    """One connection."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> _Stream:
        timeout = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Body(httpx.SyncByteStream):
    """The body of a reply, with a limit on its size."""

    def __init__(self, reply: httpcore.Response, max_bytes: int) -> None:
        self._reply, self._max_bytes = reply, max_bytes

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._reply.iter_stream():
            size += len(part)
            if size > self._max_bytes:
                raise UnusableReplyError(f"the reply has more than {self._max_bytes >> 20} MiB")
            yield part

    def close(self) -> None:
        self._reply.close()


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine, so that nothing sent to it leaves the machine.

    >>> is_this_machine("localhost"), is_this_machine("127.0.0.2"), is_this_machine("10.1.2.3")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def _check_headers(headers: httpx.Headers, max_bytes: int) -> None:
    """Refuse a reply by its headers, before reading it; a few compressed bytes can expand to gigabytes."""
    encoding = headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise UnusableReplyError(f"the reply is compressed ({encoding[:20]}) although plain text was requested")
    length = headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise UnusableReplyError(f"the reply has {length} bytes, more than {max_bytes >> 20} MiB")
