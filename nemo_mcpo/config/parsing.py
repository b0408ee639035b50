# SPDX-License-Identifier: Apache-2.0
"""Turns a plain mapping into a checked configuration, or into a one-line error about the first wrong key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nemo_mcpo.config.online import ONLINE_RULES, OnlineRunConfig
from nemo_mcpo.config.rules import RULES, check_processes
from nemo_mcpo.config.schema import RunConfig
from nemo_mcpo.errors import ConfigError

Config = TypeVar("Config", bound=RunConfig)


def parse_config(
    raw: Mapping[str, object],
    world_size: int | None = 1,
    schema: type[Config] = RunConfig,  # type: ignore[assignment]
) -> Config:
    """Return the configuration in a plain mapping (resolved YAML), after checking its keys and their combinations.

    Args:
        raw: nested dictionaries, as returned by ``OmegaConf.to_container(cfg, resolve=True)``.
        world_size: number of processes that the launcher started; None for a command that does not train.
        schema: the model of the keys.

    Raises:
        ConfigError: the first wrong key, with its name, its value, what is expected, and the fix.
    """
    try:
        config = schema.model_validate(raw)
    except ValidationError as problem:
        raise config_error(problem, schema) from None
    for rule in RULES:
        rule(config)
    if isinstance(config, OnlineRunConfig):
        for online_rule in ONLINE_RULES:
            online_rule(config)
    if world_size is not None:
        check_processes(config, world_size)
    return config


def config_error(problem: ValidationError, schema: type[BaseModel], section: str = "") -> ConfigError:
    """Return the first of pydantic's errors as one line; ``section`` is the key under which the schema's keys are."""
    # Report unknown keys before missing ones: an unknown key is usually a misspelled one, which is then missing.
    errors = sorted(problem.errors(), key=lambda error: error["type"] != "extra_forbidden")
    error = errors[0]
    # The branches of a union add their own names to the location, with characters that no key contains.
    names = [str(part) for part in error["loc"] if str(part).replace("_", "").isalnum() and not str(part)[0].isupper()]
    if error["type"] not in ("extra_forbidden", "missing"):
        names = [name for name in names if name not in ("int", "float", "str", "none", "constrained")]
    prefix = [section] if section else []
    key = ".".join([*prefix, *names])
    if error["type"] == "extra_forbidden":
        owner: Any = schema
        for name in names[:-1]:
            owner = owner.model_fields[name].annotation
        close = difflib.get_close_matches(names[-1], owner.model_fields, n=1)
        fix = f"did you mean {'.'.join([*prefix, *names[:-1], close[0]])}?" if close else "remove it"
        known = ", ".join(owner.model_fields)
        expected = f"one of: {known}" if known else "no parameters"
        return ConfigError("unknown key", where=key, got=error["input"], expected=expected, fix=fix)
    if error["type"] == "missing":
        return ConfigError("missing key", where=key, fix=f"set {key}=… on the command line or in the YAML")
    # pydantic reports one error per branch of a union.
    branches = [
        branch["msg"].removeprefix("Input should be ") for branch in errors if branch["input"] is error["input"]
    ]
    expected = " or ".join(dict.fromkeys(branches))
    return ConfigError(
        "not a valid value", where=key, got=repr(error["input"]), expected=expected, fix=f"change {key}"
    )
