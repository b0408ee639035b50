# SPDX-License-Identifier: Apache-2.0
"""HTTP to servers that nobody has to trust: bounded in time and bytes, without redirects, without a proxy at home.

A time-out of httpx bounds each read, so that a server which sends a byte now and then holds a request for ever. Here
``seconds`` bounds the whole exchange, from connecting to the last byte.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpcore
import httpx

from nemo_mcpo.errors import ConfigError

CONNECT_SECONDS = 5.0
MAX_REPLY_BYTES = 16 << 20
"""Many times what the longest answer, its token ids and those of its prompt take."""
_KEEPALIVE_SECONDS = 5.0


class UnusableReplyError(Exception):
    """A reply that no further attempt makes usable: too large, or compressed although we asked for plain text."""


class BoundedTransport(httpx.BaseTransport):
    """Threads may share one; each of them has one exchange at a time.

    Args:
        url: of the server; decides about the proxy.
        seconds: for one exchange, from connecting to the last byte.
        max_bytes: of one reply's body.
    """

    def __init__(self, url: str, seconds: float, max_bytes: int = MAX_REPLY_BYTES) -> None:
        self._seconds, self._max_bytes = seconds, max_bytes
        self._deadline = _Deadline()
        self._pool = _connections(url, _Backend(self._deadline))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See ``httpx.BaseTransport``."""
        self._deadline.at = time.monotonic() + self._seconds
        target = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        with _errors_of_httpx():
            reply = self._pool.handle_request(
                httpcore.Request(
                    request.method,
                    target,
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


class _Backend(httpcore.NetworkBackend):
    """Connections whose every step ends with the deadline."""

    def __init__(self, deadline: _Deadline) -> None:
        self._deadline, self._inner = deadline, httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable | None = None,
    ) -> httpcore.NetworkStream:
        timeout = self._deadline.left(timeout, httpcore.ConnectTimeout)
        stream = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, self._deadline)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


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

    def start_tls(
        self, ssl_context: object, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        timeout = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._deadline)  # type: ignore[arg-type]

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


class _Body(httpx.SyncByteStream):
    """The body of a reply, up to a number of bytes."""

    def __init__(self, reply: httpcore.Response, max_bytes: int) -> None:
        self._reply, self._max_bytes = reply, max_bytes

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        with _errors_of_httpx():
            for part in self._reply.iter_stream():
                size += len(part)
                if size > self._max_bytes:
                    raise UnusableReplyError(f"the reply has more than {self._max_bytes >> 20} MiB")
                yield part

    def close(self) -> None:
        self._reply.close()


def proxy_of(url: str) -> httpx.Proxy | None:
    """The environment's proxy for a server elsewhere; none for this machine, private hosts, and those in NO_PROXY.

    Raises:
        ConfigError: the proxy is of a kind that is not supported.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    found = urllib.request.getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if not proxy or urllib.request.proxy_bypass(host) or is_private(host):
        return None
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise ConfigError(
            "a proxy of this kind is not supported",
            where=f"{parts.scheme.upper()}_PROXY",
            got=urlsplit(proxy).scheme,
            expected="http://HOST:PORT",
            cure=f"change it, or put {host} into NO_PROXY",
        )
    return httpx.Proxy(proxy)


def is_private(host: str) -> bool:
    """Whether a host is this machine or one of a private network, by its addresses; a name without dots always is.

    >>> is_private("127.0.0.1"), is_private("10.1.2.3"), is_private("8.8.8.8"), is_private("node17")
    (True, True, False, True)
    """
    try:
        return not ipaddress.ip_address(host.partition("%")[0]).is_global
    except ValueError:
        pass
    if "." not in host:
        return True
    try:
        found = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)}
    except OSError:  # behind a proxy, names elsewhere often cannot be resolved
        return False
    return all(not ipaddress.ip_address(address).is_global for address in found)


def is_this_machine(host: str) -> bool:
    """Whether what is sent to a host stays on this machine.

    >>> is_this_machine("localhost"), is_this_machine("127.0.0.2"), is_this_machine("10.1.2.3")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def _connections(url: str, backend: _Backend) -> httpcore.ConnectionPool:
    """As many connections as threads ask for, direct or through a proxy."""
    proxy = proxy_of(url)
    tls = httpx.create_ssl_context() if urlsplit(url).scheme == "https" or proxy is not None else None
    if proxy is None:
        return httpcore.ConnectionPool(
            ssl_context=tls, max_connections=None, keepalive_expiry=_KEEPALIVE_SECONDS, network_backend=backend
        )
    return httpcore.HTTPProxy(
        proxy_url=str(proxy.url),
        proxy_auth=proxy.raw_auth,
        ssl_context=tls,
        max_connections=None,
        keepalive_expiry=_KEEPALIVE_SECONDS,
        network_backend=backend,
    )


def _check_headers(headers: httpx.Headers, max_bytes: int) -> None:
    """What they announce is refused before a byte of it is read; a few compressed bytes can become gigabytes."""
    encoding = headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise UnusableReplyError(f"the reply is compressed ({encoding[:20]}) although plain text was asked for")
    length = headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise UnusableReplyError(f"the reply has {length} bytes, more than {max_bytes >> 20} MiB")


_MEANINGS: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.TimeoutException, httpx.ReadTimeout),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.NetworkError, httpx.ReadError),
    (httpcore.ProxyError, httpx.ProxyError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore.ProtocolError, httpx.RemoteProtocolError),
)


@contextmanager
def _errors_of_httpx() -> Iterator[None]:
    """Raise httpcore's errors as httpx's, which the client knows."""
    try:
        yield
    except tuple(theirs for theirs, _ in _MEANINGS) as error:
        ours = next(ours for theirs, ours in _MEANINGS if isinstance(error, theirs))
        raise ours(str(error)) from error
