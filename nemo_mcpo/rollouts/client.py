# SPDX-License-Identifier: Apache-2.0
"""Client of a pool of servers with OpenAI's interface: related requests share a server, failed ones try another."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import openai
from openai._models import FinalRequestOptions

from nemo_mcpo.config import Server
from nemo_mcpo.config.online import api_key
from nemo_mcpo.errors import RolloutError
from nemo_mcpo.rollouts.routing import Router
from nemo_mcpo.rollouts.transport import CONNECT_SECONDS, BoundedTransport, UnusableReplyError, is_this_machine

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
Request = Callable[[openai.OpenAI], Result]

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 15.0
MAX_FAILURES = 5
"""Error statuses after which the request, not the server, is considered the cause,"""
MAX_POOL_FAILURES = 200
"""unless this many requests in a row have failed."""
_BUSY = (408, 409, 425, 429, 503)
_UNWELCOME = (401, 407)
_NOT_THE_INTERFACE = (
    *(openai.APIError, httpx.HTTPError),
    *(ValueError, TypeError, LookupError, AttributeError, RecursionError),  # raised when an unexpected reply is read
)


class RefusedError(Exception):
    """A server rejects this request, and would do so again, or its reply makes no sense."""


class AwayError(Exception):
    """A server fails or does not answer; another server, or the same one later, may succeed.

    ``failed``: the server answered with an error, so it is neither busy nor unreachable.
    """

    def __init__(self, message: str, failed: bool) -> None:
        super().__init__(message)
        self.failed = failed


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's reply.

    Attributes:
        text: without the end-of-turn token; empty if only ``tokens`` were requested.
        finished: False if the token limit cut the reply.
        tokens: the generated ids, if the server returns them; some servers omit the end-of-turn token.
        ended_by: the token or text at which the server says it stopped.
        num_tokens: generated tokens by the server's count, which may exclude the end-of-turn token.
        prompt_tokens: the ids of the prompt, if the server returns them.
        num_prompt_tokens: the prompt's length by the server's count.
    """

    text: str
    finished: bool
    tokens: tuple[int, ...] | None = None
    ended_by: int | str | None = None
    num_tokens: int | None = None
    prompt_tokens: tuple[int, ...] | None = None
    num_prompt_tokens: int | None = None


class Client(openai.OpenAI):
    """OpenAI's client for one server, which speaks its dialect.

    ``dialect``: fields to set in every request, such as the name under which the server lists our model.
    """

    dialect: Mapping[str, object] = MappingProxyType({})

    def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        """Apply the dialect; the base class calls this on a copy of every request's options."""
        body = options.json_data
        if isinstance(body, dict) and "model" in body:
            options.json_data = {**body, **self.dialect}
        return options


@dataclass(slots=True)
class _Connection:
    url: str
    client: Client
    in_flight: int = 0
    failures: int = 0  # since its last reply
    rests_until: float = 0.0

    def rest(self) -> None:
        """Avoid this server for a while, longer after each failure."""
        seconds = min(FIRST_PAUSE_SECONDS * 2**self.failures, LONGEST_PAUSE_SECONDS)
        self.failures += 1
        self.rests_until = time.monotonic() + seconds


class ServerPool:
    """Servers of the same model; thread-safe.

    Args:
        urls: base URLs of the servers.
        settings: timeouts, retries, and the name of the variable with the API key.
    """

    def __init__(self, urls: Sequence[str], settings: Server) -> None:
        self.settings = settings
        key = api_key(settings, "server")
        if settings.api_key_env is not None:
            _warn_of_open_keys(urls, settings.api_key_env)
        self._connections = [_Connection(url, _client(url, key, settings.timeout_seconds)) for url in urls]
        self._lock = Lock()
        self._router = Router(settings.concurrency)
        self._failures = 0  # of any request, since the last reply

    @property
    def urls(self) -> list[str]:
        return [connection.url for connection in self._connections]

    def learn(self, url: str, **fields: object) -> None:
        """Set these fields in all later requests to one server."""
        for connection in self._connections:
            if connection.url == url:
                connection.client.dialect = {**connection.client.dialect, **fields}

    def ask(self, request: Request[Reply], key: Hashable = None) -> Reply:
        """Send a request to any server and return the reply, retrying while servers fail or are unreachable.

        Args:
            key: requests with the same key go to the same server, which has their common prefix in its cache, unless
                it is much busier than another or resting after a failure.

        Raises:
            RefusedError: the request was rejected, or it fails repeatedly while other requests succeed.
            RolloutError: no server replied within ``retry_seconds``.
        """
        return self._again(lambda: self._ask_once(request, key), self.urls, lambda: self._failures < MAX_POOL_FAILURES)

    def each(self, request: Request[Result]) -> list[tuple[str, Result]]:
        """Send one request to every server and return pairs of URL and result.

        Raises:
            RefusedError: a server rejected the request, or fails at it repeatedly.
            RolloutError: a server is unreachable for ``retry_seconds``.
        """
        return [
            (one.url, self._again(partial(send, request, one.client), [one.url], lambda: True))
            for one in self._connections
        ]

    def close(self) -> None:
        for connection in self._connections:
            connection.client.close()

    def _again(self, call: Callable[[], Result], urls: Sequence[str], is_alive: Callable[[], bool]) -> Result:
        """Repeat the call until it does not raise AwayError."""
        deadline, pause, failures = time.monotonic() + self.settings.retry_seconds, FIRST_PAUSE_SECONDS, 0
        while True:
            try:
                return call()
            except AwayError as error:
                problem = error
            failures += problem.failed
            if failures >= MAX_FAILURES and is_alive():
                raise RefusedError(str(problem))
            if time.monotonic() > deadline:
                raise RolloutError(
                    "no server replies",
                    where=", ".join(urls),
                    got=problem,
                    fix="check the servers' logs and server.urls; the same command requests what is missing",
                )
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _ask_once(self, request: Request[Reply], key: Hashable) -> Reply:
        with self._routed(key) as connection:
            try:
                reply = send(request, connection.client)
            except AwayError as error:
                connection.rest()
                self._failures += error.failed
                raise
            connection.failures = 0
        self._failures = 0
        return reply

    @contextmanager
    def _routed(self, key: Hashable) -> Iterator[_Connection]:
        with self._lock:
            connection = self._connections[self._router.choose(self._connections, key)]
            connection.in_flight += 1
        try:
            yield connection
        finally:
            with self._lock:
                connection.in_flight -= 1


def send(request: Request[Result], client: openai.OpenAI) -> Result:
    """Send one request to one server.

    Raises:
        RefusedError, AwayError: the request failed.
        RolloutError: every request would fail: wrong address, or a rejected key.
    """
    try:
        return request(client)
    except openai.APIStatusError as error:
        _check_address(error, client)
        if error.status_code < 500 and error.status_code not in _BUSY:
            raise RefusedError(_error_line(error)) from error
        raise AwayError(_error_line(error), failed=error.status_code not in _BUSY) from error
    except (openai.APIConnectionError, httpx.TransportError) as error:  # including timeouts and broken streams
        if isinstance(error.__cause__, UnusableReplyError):
            raise RefusedError(str(error.__cause__)) from error
        raise AwayError(_error_line(error.__cause__ or error, type(error)), failed=False) from error
    except UnusableReplyError as error:
        raise RefusedError(str(error)) from error
    except _NOT_THE_INTERFACE as error:
        raise RefusedError(_error_line(error)) from error


def _check_address(error: openai.APIStatusError, client: openai.OpenAI) -> None:
    where = str(client.base_url)
    if error.status_code in _UNWELCOME:
        raise RolloutError(
            "the server rejects the API key",
            where=where,
            got=_error_line(error),
            fix="set server.api_key_env to the name of the environment variable with its key",
        ) from error
    if 300 <= error.status_code < 400:
        # Prompts and key are for the configured server, not for another one that it names.
        raise RolloutError(
            "the server redirects requests",
            where=where,
            got=f"to {error.response.headers.get('location', 'nowhere')[:200]}",
            fix="if that is the right address, set it in server.urls",
        ) from error


def _client(url: str, key: str, seconds: float) -> Client:
    """A client without openai's own retries and without the settings that httpx reads from the environment."""
    timeout = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
    http = httpx.Client(
        transport=BoundedTransport(url, seconds),
        timeout=timeout,
        headers={"Accept-Encoding": "identity"},
        follow_redirects=False,
        trust_env=False,
    )
    return Client(base_url=url, api_key=key, timeout=timeout, max_retries=0, http_client=http)


def _warn_of_open_keys(urls: Sequence[str], variable: str) -> None:
    plain = [url for url in urls if urlsplit(url).scheme == "http"]
    elsewhere = [url for url in plain if not is_this_machine(urlsplit(url).hostname or "")]
    if elsewhere:
        message = "the key in %s is sent unencrypted to %s; use an https:// URL"
        logger.warning(message, variable, ", ".join(elsewhere))


def _error_line(error: BaseException, kind: type | None = None) -> str:
    """Return the class (``kind`` if given) and the first 200 characters of an error, on one line."""
    return f"{(kind or type(error)).__name__}: {' '.join(str(error).split())[:200]}"
