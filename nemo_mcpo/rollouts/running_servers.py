# SPDX-License-Identifier: Apache-2.0
"""Checks of servers that are already running: whether they are reachable, accept our key, and have our model."""

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
from nemo_mcpo.rollouts.launchers import launcher_of

SECONDS = 10.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy: a URL is used as given


def check_urls(settings: Server, section: str, *, must_run: bool) -> list[str]:
    """Check the configured URLs, and return notes about servers that do not run, or do not have the model, yet.

    Args:
        must_run: whether an unreachable server is an error.

    Raises:
        ConfigError: not a URL, an unknown host, a rejected key, or another model on a server that loads none by name.
    """
    notes = []
    key, model = api_key(settings, section), settings.model
    for url in settings.urls:
        _check_url(url, f"{section}.urls")
        try:
            listed = _models(url, key)
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                fix = f"set {section}.api_key_env to the name of the variable with the key"
                raise ConfigError(
                    "the server rejects the API key", where=url, got=f"HTTP {error.code}", fix=fix
                ) from error
            listed = ()  # it runs, but has no such list
        except OSError as error:
            problem = f"{section}.urls: {url} does not answer ({getattr(error, 'reason', error)})"
            if must_run:
                fix = "start it first, or correct the URL"
                raise ConfigError("the server does not answer", where=f"{section}.urls", got=url, fix=fix) from error
            notes.append(f"{problem}; it must be running by the time it is needed")
            continue
        if model and listed and not {model, Path(model).name} & {*listed, *(Path(name).name for name in listed)}:
            if launcher_of(settings).loads_by_name:
                notes.append(f"{section}.urls: {url} has {', '.join(listed[:5])}; it must load {model} on request")
                continue
            raise ConfigError(
                "the server has a different model",
                where=url,
                got=", ".join(listed[:5]),
                expected=model,
                fix=f"set {section}.model to a name that it lists",
            )
    return notes


def _check_url(url: str, where: str) -> None:
    """Raise ConfigError unless the URL is valid and its host resolves."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("not a URL", where=where, got=url, expected="http://HOST:PORT/v1", fix="correct it")
    try:
        socket.getaddrinfo(parts.hostname, None)
    except OSError as error:
        fix = "correct the host name, or use its IP address"
        raise ConfigError("unknown host", where=where, got=f"{url}: {error}", fix=fix) from error


def _models(url: str, key: str) -> Sequence[str]:
    request = urllib.request.Request(f"{url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"})
    with _DIRECT.open(request, timeout=SECONDS) as answer:
        try:
            return [entry["id"] for entry in json.loads(answer.read(2**20))["data"]]
        except (ValueError, KeyError, TypeError):
            return ()
