# SPDX-License-Identifier: Apache-2.0
"""Checked configurations and plain mappings from the YAML files in ``examples/conf``."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache, reduce
from pathlib import Path
from typing import Any

from nemo_mcpo.algorithms.configuration import checked_config, load_run_config
from nemo_mcpo.config import OnlineRunConfig, RunConfig, Server

ROOT = Path(__file__).parents[2]
CONF = ROOT / "examples" / "conf"
MANDATORY = ("model.data.train=prompts.jsonl", "pretrained_checkpoint.restore_from_path=model")
"""The two keys without a default."""


def compose(*overrides: str, name: str = "tiny_cpu", world_size: int = 1) -> RunConfig:
    """Return the configuration for a command line with these overrides; later ones win."""
    return load_run_config([*MANDATORY, *overrides], config_dir=CONF, config_name=name, world_size=world_size)


def compose_online(*overrides: str, name: str = "quickstart_onmcpo") -> OnlineRunConfig:
    """Return the same for an online run."""
    argv = [*MANDATORY, *overrides]
    return load_run_config(argv, config_dir=CONF, config_name=name, world_size=None, schema=OnlineRunConfig)


@cache
def _defaults(online: bool) -> dict[str, Any]:
    return (compose_online() if online else compose()).model_dump()


def mapping(changes: Mapping[str, object] | None = None, *, online: bool = False) -> dict[str, Any]:
    """Return ``tiny_cpu``, or ``quickstart_onmcpo``, as nested dictionaries, with keys (``__`` or dots) changed."""
    raw = copy.deepcopy(_defaults(online))
    for key, value in (changes or {}).items():
        *sections, name = key.replace("__", ".").split(".")
        reduce(dict.__getitem__, sections, raw)[name] = value
    return raw


def checked(changes: Mapping[str, object] | None = None, world_size: int = 1) -> RunConfig:
    """Return ``tiny_cpu`` with keys changed."""
    return checked_config(mapping(changes), world_size)


def server_settings(**changes: object) -> Server:
    """Return ``rollouts.server`` of ``quickstart_onmcpo`` with its keys changed."""
    return online({f"rollouts.server.{key}": value for key, value in changes.items()}).rollouts.server


def online(changes: Mapping[str, object] | None = None) -> OnlineRunConfig:
    """Return ``quickstart_onmcpo`` with keys changed."""
    return checked_config(mapping(changes, online=True), None, OnlineRunConfig)
