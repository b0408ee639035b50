# SPDX-License-Identifier: Apache-2.0
"""HTTP to servers that nobody has to trust: bounded in time and bytes, without redirects, and never through a proxy.

A time-out of httpx bounds each read, so that a server which sends a byte now and then, of its headers or of its body,
holds a request for ever. Here ``seconds`` bounds the whole exchange, from connecting to the last byte. That takes
connections of our own, which httpcore, the part of httpx that speaks HTTP, accepts from outside.

A URL that is given is meant as it stands: whatever ``HTTP_PROXY`` says, prompts and keys go to that server.
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
"""Many times what the longest answer, its token ids and those of its prompt take."""
_KEEPALIVE_SECONDS = 5.0


class UnusableReplyError(Exception):
    """A reply that no further attempt makes usable: too large, or compressed although we asked for plain text."""


class BoundedTransport(httpx.BaseTransport):
    """Threads may share one; each of them has one exchange at a time.

    What goes wrong on the way is raised as httpcore raises it.

    Args:
        url: of the server.
        seconds: for one exchange, from connecting to the last byte.
        max_bytes: of one reply's body.
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
        """See ``httpx.BaseTransport``."""
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
    """When the exchange of this thread has to be over."""

    at: float = float("inf")

    def left(self, timeout: float | None, error: type[httpcore.TimeoutException]) -> float:
        """Seconds that the next step may take."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise error("the whole reply took too long")
        return left if timeout is None else min(timeout, left)


class _Backend(httpcore.SyncBackend):
    """Connections whose every step ends with the deadline."""

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
    """The body of a reply, up to a number of bytes."""

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
    """Whether what is sent to a host stays on this machine.

    >>> is_this_machine("localhost"), is_this_machine("127.0.0.2"), is_this_machine("10.1.2.3")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def _check_headers(headers: httpx.Headers, max_bytes: int) -> None:
    """What they announce is refused before a byte of it is read; a few compressed bytes can become gigabytes."""
    encoding = headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise UnusableReplyError(f"the reply is compressed ({encoding[:20]}) although plain text was asked for")
    length = headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise UnusableReplyError(f"the reply has {length} bytes, more than {max_bytes >> 20} MiB")
