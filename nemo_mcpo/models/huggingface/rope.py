# SPDX-License-Identifier: Apache-2.0
"""The rotary embedding in config.json, in the spelling of transformers 4, of transformers 5, or in both.

    transformers 4    rope_theta: 5e5, rope_scaling: {rope_type: llama3, factor: 8.0, …}
    transformers 5    rope_parameters: {rope_type: llama3, rope_theta: 5e5, factor: 8.0, …}, or one per layer type

transformers 4 ignores the second spelling and silently uses a base of 10,000, so it always gets the first. If a file
has both, they must agree, because programs differ in which one they read.

>>> spelled_for_4({"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}}, "config.json")
{'rope_theta': 500000.0, 'rope_scaling': {'rope_type': 'linear', 'factor': 2.0}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_mcpo.errors import CheckpointError

SCALINGS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""Scalings that ``trees.rotary`` implements, with the numbers that each needs."""

KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
_OWN = ("rope_theta", "partial_rotary_factor")
"""Keys of ``rope_parameters`` that transformers 4 has at the top level, beside ``rope_scaling``."""
_UNREAD = {"factor": 1, "attention_factor": 1, "mscale": 1, "original_max_position_embeddings": None}
"""Numbers that are allowed with a scaling that ignores them: with this value, or with any value (None)."""
_FIX = "download config.json again, or write it as the model's authors did"


@dataclass(frozen=True, slots=True)
class Rope:
    """The rotary embedding that a config.json declares; None for values that it leaves to the family's default.

    Attributes:
        theta: base of the frequencies.
        scaling: ``rope_type`` and its parameters; None without scaling.
        partial: fraction of a head that is rotated.
    """

    theta: float | None = None
    scaling: dict[str, Any] | None = field(default=None, hash=False)
    partial: float | None = None


def read_rope(config: Mapping[str, Any], where: str) -> Rope:
    """Read the rotary embedding from either spelling.

    Raises:
        CheckpointError: values are invalid, spellings disagree, or layer types have different embeddings.
    """
    wheres = {"config.json": where} | {place: f"{where}: {place}" for place in ("rope_scaling", "rope_parameters")}
    places = {
        "config.json": {key: config[key] for key in _OWN if config.get(key) is not None},
        "rope_scaling": _parameters(config.get("rope_scaling"), wheres["rope_scaling"]),
        "rope_parameters": _one_for_all(config.get("rope_parameters"), wheres["rope_parameters"]),
    }
    ropes = {place: _rope(parameters, wheres[place]) for place, parameters in places.items()}
    agreed: dict[str, Any] = {}
    for name in ("theta", "scaling", "partial"):
        said = {place: value for place, rope in ropes.items() if (value := getattr(rope, name)) is not None}
        values = list(said.values())
        if any(value != values[0] for value in values):
            raise CheckpointError(
                "two spellings of the rotary embedding disagree",
                where=where,
                got=", ".join(f"{value} in {place}" for place, value in said.items()),
                fix="delete the spelling that the model was not trained with",
            )
        agreed |= {name: values[0]} if values else {}
    return Rope(**agreed)


def checked_scaling(scaling: Mapping[str, Any] | None, where: str) -> dict[str, Any] | None:
    """Return the scaling with only its own numbers, or None if it changes nothing.

    Raises:
        CheckpointError: the scaling is not supported, or its numbers are missing, invalid or unknown.
    """
    if scaling is None:
        return None
    kind = scaling["rope_type"]
    if kind not in SCALINGS:
        raise CheckpointError(
            "this rotary scaling is not supported",
            where=f"{where}: rope_scaling",
            got=kind or "no rope_type",
            expected=", ".join(SCALINGS),
            fix="choose a model with one of these, or delete rope_scaling if sequences are short",
        )
    numbers = {key: _positive(dict(scaling), key, f"{where}: rope_scaling") for key in SCALINGS[kind]}
    missing = [key for key, value in numbers.items() if value is None]
    unknown = [
        key
        for key, value in scaling.items()
        if key not in ("rope_type", *numbers) and (key not in _UNREAD or _UNREAD[key] not in (None, value))
    ]
    if missing or unknown:
        raise CheckpointError(
            "the rotary scaling lacks a number" if missing else "the rotary scaling has an unknown value",
            where=f"{where}: rope_scaling",
            got=f"{kind} without {missing[0]}" if missing else f"{unknown[0]}: {scaling[unknown[0]]}",
            expected=", ".join(SCALINGS[kind]) or "none",
            fix=_FIX,
        )
    if kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        got = f"{scaling['low_freq_factor']} and {scaling['high_freq_factor']}"
        what = "low_freq_factor must be less than high_freq_factor"
        raise CheckpointError(what, where=f"{where}: rope_scaling", got=got, fix=_FIX)
    return None if kind == "default" else {"rope_type": kind} | {key: scaling[key] for key in numbers}


def spelled_for_4(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return ``config`` in the spelling of transformers 4, including nested ones such as ``text_config``."""
    spelled = {
        key: spelled_for_4(value, f"{where}: {key}") if key.endswith("_config") and isinstance(value, dict) else value
        for key, value in config.items()
    }
    older = config.get("rope_scaling")
    if config.get("rope_parameters") is None and not (isinstance(older, dict) and any(key in older for key in _OWN)):
        return spelled
    rope = read_rope(config, where)
    own = {"rope_theta": rope.theta, "rope_scaling": rope.scaling, "partial_rotary_factor": rope.partial}
    rest = {key: value for key, value in spelled.items() if key not in KEYS}
    return rest | {key: value for key, value in own.items() if value is not None}


def spelled_for_both(theta: float, scaling: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return keys for a config.json that every version of transformers reads the same way.

    >>> spelled_for_both(1e4, None)["rope_parameters"]
    {'rope_theta': 10000.0, 'rope_type': 'default'}
    """
    own = dict(scaling) if scaling else None
    return {
        "rope_theta": theta,
        "rope_scaling": own,
        "rope_parameters": {"rope_theta": theta, **(own or {"rope_type": "default"})},
    }


def _parameters(value: object, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CheckpointError("not a JSON object", where=where, got=value, fix=_FIX)
    return {key: one for key, one in value.items() if one is not None}


def _one_for_all(value: object, where: str) -> dict[str, Any]:
    """Return the parameters that all layer types share; transformers 5 allows different ones, which are refused."""
    parameters = _parameters(value, where)
    if not isinstance(value, dict) or not any(isinstance(one, dict) for one in parameters.values()):
        return parameters
    first = next(iter(value.values()))
    if not isinstance(first, dict) or any(other != first for other in value.values()):
        raise CheckpointError(
            "layer types with different rotary embeddings are not supported",
            where=where,
            got=", ".join(f"{key}: {one}" for key, one in value.items()),
            expected="the same for all",
            fix="choose a model with one rotary embedding; or, for a judge, save it again with transformers 4",
        )
    return _parameters(first, where)


def _rope(parameters: dict[str, Any], where: str) -> Rope:
    names = {str(parameters[key]) for key in ("type", "rope_type") if key in parameters}
    if len(names) > 1:
        got = f"type: {parameters['type']}, rope_type: {parameters['rope_type']}"
        raise CheckpointError("two types for one rotary embedding", where=where, got=got, fix=_FIX)
    scaling = {key: value for key, value in parameters.items() if key not in (*_OWN, "type", "rope_type")}
    if scaling or names:
        scaling = {"rope_type": names.pop() if names else None} | scaling
    return Rope(
        theta=_positive(parameters, "rope_theta", where),
        scaling=scaling or None,
        partial=_positive(parameters, "partial_rotary_factor", where),
    )


def _positive(parameters: dict[str, Any], key: str, where: str) -> float | None:
    value = parameters.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise CheckpointError("not a positive number", where=f"{where}: {key}", got=repr(value), fix=_FIX)
    return float(value)
