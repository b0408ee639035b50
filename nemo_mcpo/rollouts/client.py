# SPDX-License-Identifier: Apache-2.0
"""Requests to one or more servers with OpenAI's interface: the least busy first, again elsewhere when one fails."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

import httpx
import openai

from nemo_mcpo.config import Server
from nemo_mcpo.errors import ConfigError, RolloutError

Result = TypeVar("Result")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 15.0
_NOT_THE_REQUESTS_FAULT = (408, 409, 425, 429)


class RefusedError(Exception):
    """A server says that this request is wrong, and would say so again; or its answer makes no sense."""


class AwayError(Exception):
    """A server fails, or does not answer: another one may, or the same one later."""


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
    rests_until: float = 0.0


class ServerPool:
    """Threads may share one.

    Args:
        urls: base URLs of servers that serve the same model.
        settings: timeouts, retries, the name of the variable with the key.
    """

    def __init__(self, urls: Sequence[str], settings: Server) -> None:
        self.settings = settings
        key = _api_key(settings.api_key_env)
        self._connections = [
            _Connection(url, openai.OpenAI(base_url=url, api_key=key, timeout=settings.timeout_seconds, max_retries=0))
            for url in urls
        ]
        self._lock = Lock()

    @property
    def urls(self) -> list[str]:
        return [connection.url for connection in self._connections]

    def ask(self, request: Callable[[openai.OpenAI], Reply]) -> Reply:
        """The reply to a request, from whichever server; tried again while servers fail or are away.

        Raises:
            RefusedError: see there.
            RolloutError: no server gave a reply within ``retry_seconds``.
        """
        deadline = time.monotonic() + self.settings.retry_seconds
        pause = FIRST_PAUSE_SECONDS
        while True:
            with self._least_busy() as connection:
                try:
                    return send(request, connection.client)
                except AwayError as error:
                    problem = error
                connection.rests_until = time.monotonic() + pause
            if time.monotonic() > deadline:
                raise RolloutError(
                    "no server answers",
                    where=", ".join(self.urls),
                    got=problem,
                    cure="look at the servers' logs; the same command then asks for what is missing",
                )
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def each(self, request: Callable[[openai.OpenAI], Result]) -> list[tuple[str, Result]]:
        """One request to every server, once: URL and result.

        Raises:
            RefusedError: see there.
            RolloutError: a server is away.
        """
        found = []
        for connection in self._connections:
            try:
                found.append((connection.url, send(request, connection.client)))
            except AwayError as error:
                raise RolloutError(
                    "the server does not answer",
                    where=connection.url,
                    got=error,
                    cure="start it, or check server.urls; its log may say more",
                ) from error
        return found

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.client.close()

    @contextmanager
    def _least_busy(self) -> Iterator[_Connection]:
        now = time.monotonic()
        with self._lock:
            connection = min(self._connections, key=lambda each: (max(each.rests_until - now, 0.0), each.in_flight))
            connection.in_flight += 1
        try:
            yield connection
        finally:
            with self._lock:
                connection.in_flight -= 1


def send(request: Callable[[openai.OpenAI], Result], client: openai.OpenAI) -> Result:
    """One request to one server; raises RefusedError or AwayError, whatever goes wrong."""
    try:
        return request(client)
    except openai.APIStatusError as error:
        away = error.status_code >= 500 or error.status_code in _NOT_THE_REQUESTS_FAULT
        raise (AwayError if away else RefusedError)(_short(error)) from error
    except (openai.APIConnectionError, httpx.TransportError) as error:  # time-outs and broken streams too
        raise AwayError(_short(error)) from error
    except (openai.APIError, ValueError, TypeError, AttributeError) as error:  # not the interface's form
        raise RefusedError(_short(error)) from error


def chat(client: openai.OpenAI, model: str, messages: Sequence[dict[str, str]], **sampling: object) -> Reply:
    """One chat completion; read as a stream, which every server offers."""
    parts, finish = [], None
    with client.chat.completions.create(model=model, messages=messages, stream=True, **sampling) as stream:  # type: ignore[call-overload]
        for chunk in stream:
            for choice in getattr(chunk, "choices", None) or ():
                parts.append(choice.delta.content or "")
                finish = choice.finish_reason or finish
    return _checked("".join(parts), finish)


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


def _api_key(variable: str | None) -> str:
    if variable is None:
        return "none"  # local servers want none, the client wants one
    if variable not in os.environ:
        raise ConfigError(
            "the variable is not set", where="server.api_key_env", got=variable, cure=f"export {variable}"
        )
    return os.environ[variable]


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
