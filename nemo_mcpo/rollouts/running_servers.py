# SPDX-License-Identifier: Apache-2.0
"""Servers that somebody else runs, asked before anything depends on them: reachable, with our key, with our model."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from nemo_mcpo.config import Server
from nemo_mcpo.config.online import api_key
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.rollouts.launchers import LAUNCHERS

SECONDS = 10.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a URL that is given is meant as it stands


def check_urls(settings: Server, section: str, model: str | None, *, must_run: bool) -> list[str]:
    """Notes about servers that do not run yet, or do not have the model yet.

    Args:
        model: the name that they must list, where they list any; None: it is not known yet.
        must_run: one that does not answer is an error.

    Raises:
        ConfigError: no URL, an unknown host, a key that is refused, another model (and the server loads none by name).
    """
    notes = []
    key = api_key(settings, section)
    for url in settings.urls:
        _check_words(url, f"{section}.urls")
        try:
            listed = _models(url, key)
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                fix = f"set {section}.api_key_env to the variable with the key"
                raise ConfigError(
                    "the server refuses the key", where=url, got=f"HTTP {error.code}", fix=fix
                ) from error
            listed = ()  # it answers, and has no such list
        except OSError as error:
            problem = f"{section}.urls: {url} does not answer ({getattr(error, 'reason', error)})"
            if must_run:
                fix = "start it first, or correct the URL"
                raise ConfigError("the server does not answer", where=f"{section}.urls", got=url, fix=fix) from error
            notes.append(f"{problem}; it must before it is needed")
            continue
        if model and listed and not {model, Path(model).name} & {*listed, *(Path(name).name for name in listed)}:
            if LAUNCHERS[settings.launcher].loads_by_name:
                notes.append(f"{section}.urls: {url} has {', '.join(listed[:5])}; it must load {model} when asked to")
                continue
            raise ConfigError(
                "the server has another model",
                where=url,
                got=", ".join(listed[:5]),
                expected=model,
                fix=f"set {section}.model to a name that it lists",
            )
    return notes


def _check_words(url: str, where: str) -> None:
    """The URL is one, of a host that has an address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("not a URL", where=where, got=url, expected="http://HOST:PORT/v1", fix="correct it")
    try:
        socket.getaddrinfo(parts.hostname, None)
    except OSError as error:
        fix = "correct the name, or give the address"
        raise ConfigError("the host has no address", where=where, got=f"{url}: {error}", fix=fix) from error


def _models(url: str, key: str) -> Sequence[str]:
    request = urllib.request.Request(f"{url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"})
    with _DIRECT.open(request, timeout=SECONDS) as answer:
        try:
            return [entry["id"] for entry in json.loads(answer.read(2**20))["data"]]
        except (ValueError, KeyError, TypeError):
            return ()
