# SPDX-License-Identifier: Apache-2.0
"""Requests to one or more servers with OpenAI's interface: the least busy first, again elsewhere when one fails."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, TypeVar

import httpx
import openai

from nemo_mcpo.config import Server
from nemo_mcpo.config.online import api_key
from nemo_mcpo.errors import RolloutError
from nemo_mcpo.rollouts.chat_reply import read_chat
from nemo_mcpo.rollouts.launchers import HOST

Result = TypeVar("Result")
Request = Callable[[openai.OpenAI], Result]

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 15.0
CONNECT_SECONDS = 5.0
MAX_FAILURES = 5
"""Failures with a status after which a request, and not the server, is held to be the cause,"""
MAX_POOL_FAILURES = 200
"""unless so many requests in a row have failed."""
_BUSY = (408, 409, 425, 429, 503)


class RefusedError(Exception):
    """A server says that this request is wrong, and would say so again; or its answer makes no sense."""


class AwayError(Exception):
    """A server fails, or does not answer: another one may, or the same one later.

    ``failed``: it did answer, that it failed; it is neither busy nor away.
    """

    def __init__(self, message: str, failed: bool) -> None:
        super().__init__(message)
        self.failed = failed


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered; ``finished`` is False where the limit of tokens cut it."""

    text: str
    finished: bool


@dataclass(slots=True)
class _Connection:
    url: str
    client: openai.OpenAI
    in_flight: int = 0
    failures: int = 0  # since its last reply
    rests_until: float = 0.0

    def rest(self) -> None:
        """Leave it alone for a while, longer each time."""
        seconds = min(FIRST_PAUSE_SECONDS * 2**self.failures, LONGEST_PAUSE_SECONDS)
        self.failures += 1
        self.rests_until = time.monotonic() + seconds


class ServerPool:
    """Threads may share one.

    Args:
        urls: base URLs of servers that serve the same model.
        settings: timeouts, retries, the name of the variable with the key.
    """

    def __init__(self, urls: Sequence[str], settings: Server) -> None:
        self.settings = settings
        key = api_key(settings, "server")
        self._connections = [_Connection(url, _client(url, key, settings.timeout_seconds)) for url in urls]
        self._lock = Lock()
        self._failures = 0  # of any request, since the last reply

    @property
    def urls(self) -> list[str]:
        return [connection.url for connection in self._connections]

    def ask(self, request: Request[Reply]) -> Reply:
        """The reply to a request, from whichever server; tried again while servers fail or are away.

        Raises:
            RefusedError: see there; or servers fail at this request again and again, but not at all.
            RolloutError: no server gave a reply within ``retry_seconds``.
        """
        return self._again(lambda: self._ask_once(request), self.urls, lambda: self._failures < MAX_POOL_FAILURES)

    def each(self, request: Request[Result]) -> list[tuple[str, Result]]:
        """One request to every server: URL and result.

        Raises:
            RefusedError: see there; or a server fails at it again and again.
            RolloutError: a server is away for ``retry_seconds``.
        """
        return [
            (one.url, self._again(partial(send, request, one.client), [one.url], lambda: True))
            for one in self._connections
        ]

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.client.close()

    def _again(self, call: Callable[[], Result], urls: Sequence[str], is_alive: Callable[[], bool]) -> Result:
        """Call until it does not raise AwayError."""
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
                    "no server answers",
                    where=", ".join(urls),
                    got=problem,
                    cure="look at the servers' logs and at server.urls; the same command asks for what is missing",
                )
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _ask_once(self, request: Request[Reply]) -> Reply:
        with self._least_busy() as connection:
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
    def _least_busy(self) -> Iterator[_Connection]:
        now = time.monotonic()
        with self._lock:
            # Of equally busy ones one that works; one that failed is tried again when the others are busy.
            connection = min(
                self._connections, key=lambda each: (max(each.rests_until - now, 0.0), each.in_flight, each.failures)
            )
            connection.in_flight += 1
        try:
            yield connection
        finally:
            with self._lock:
                connection.in_flight -= 1


def send(request: Request[Result], client: openai.OpenAI) -> Result:
    """One request to one server; raises RefusedError or AwayError, whatever goes wrong."""
    try:
        return request(client)
    except openai.APIStatusError as error:
        if error.status_code < 500 and error.status_code not in _BUSY:
            raise RefusedError(_short(error)) from error
        raise AwayError(_short(error), failed=error.status_code not in _BUSY) from error
    except (openai.APIConnectionError, httpx.TransportError) as error:  # time-outs and broken streams too
        raise AwayError(_short(error), failed=False) from error
    except (
        openai.APIError,
        httpx.HTTPError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:  # not the interface
        raise RefusedError(_short(error)) from error


def chat(
    client: openai.OpenAI, model: str, messages: Sequence[dict[str, str]], *, max_tokens: int, **sampling: Any
) -> Reply:
    """One chat completion."""
    create = client.chat.completions.with_streaming_response.create
    seconds = client.timeout.read if isinstance(client.timeout, httpx.Timeout) else None
    with create(model=model, messages=messages, stream=False, max_tokens=max_tokens, **sampling) as response:  # type: ignore[arg-type]
        body = read_chat(response, max_tokens, seconds)
    if not body.get("choices"):
        raise RefusedError(f"no choices in the reply: {str(body)[:100]}")
    choice = body["choices"][0]
    return _checked(choice["message"].get("content") or "", choice.get("finish_reason"))


def complete(client: openai.OpenAI, model: str, tokens: Sequence[int], **sampling: object) -> Reply:
    """One completion of token ids."""
    answer = client.completions.create(model=model, prompt=list(tokens), **sampling)  # type: ignore[call-overload]
    choices = getattr(answer, "choices", None)
    if not choices:
        raise RefusedError(f"no choices in the reply: {str(answer)[:100]}")
    return _checked(choices[0].text, choices[0].finish_reason)


def _checked(text: object, finish: object) -> Reply:
    if not isinstance(text, str) or finish not in ("stop", "length"):
        raise RefusedError(f"the reply makes no sense: finish_reason {finish!r}, text {str(text)[:60]!r}")
    return Reply(text, finish == "stop")


def _client(url: str, key: str, seconds: float) -> openai.OpenAI:
    """Without openai's own retries; a proxy is not asked for what runs on this machine."""
    timeout = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
    http = openai.DefaultHttpxClient(trust_env=HOST not in url, timeout=timeout)
    return openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=0, http_client=http)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
