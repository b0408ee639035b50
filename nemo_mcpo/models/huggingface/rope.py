# SPDX-License-Identifier: Apache-2.0
"""The rotary embedding of a config.json, in the spelling of transformers 4 or 5, and in both.

    transformers 4    rope_theta: 5e5, rope_scaling: {rope_type: llama3, factor: 8.0, …}
    transformers 5    rope_parameters: {rope_type: llama3, rope_theta: 5e5, factor: 8.0, …}, or one a layer type

transformers 4 knows nothing of the second and silently takes a base of 10,000, so it only ever gets the first. Where a
file has both they must agree: which one counts depends on who reads it.

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
"""The kinds of scaling that ``trees.rotary`` computes, and the numbers that each needs."""

KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
_OWN = ("rope_theta", "partial_rotary_factor")
"""Keys of ``rope_parameters`` that transformers 4 has beside ``rope_scaling``."""
_UNREAD = {"factor": 1, "attention_factor": 1, "mscale": 1, "original_max_position_embeddings": None}
"""What may stand beside the numbers of a kind that does not read it: with this value, or with any."""
_CURE = "download config.json again, or write it as the model's authors did"


@dataclass(frozen=True, slots=True)
class Rope:
    """What a config.json says; None where it leaves it to the family's default.

    Attributes:
        theta: base of the frequencies.
        scaling: ``rope_type`` and its parameters; None without scaling.
        partial: share of a head that is turned.
    """

    theta: float | None = None
    scaling: dict[str, Any] | None = field(default=None, hash=False)
    partial: float | None = None


def read_rope(config: Mapping[str, Any], where: str) -> Rope:
    """The rotary embedding, from either spelling.

    Raises:
        CheckpointError: values that are none, spellings that disagree, or another one for each type of layer.
    """
    places = {
        "config.json": {key: config[key] for key in _OWN if config.get(key) is not None},
        "rope_scaling": _parameters(config.get("rope_scaling"), f"{where}: rope_scaling"),
        "rope_parameters": _one_for_all(config.get("rope_parameters"), f"{where}: rope_parameters"),
    }
    ropes = {place: _rope(parameters, f"{where}: {place}") for place, parameters in places.items()}
    agreed: dict[str, Any] = {}
    for name in ("theta", "scaling", "partial"):
        said = {place: value for place, rope in ropes.items() if (value := getattr(rope, name)) is not None}
        values = list(said.values())
        if any(value != values[0] for value in values):
            raise CheckpointError(
                "two spellings of the rotary embedding disagree",
                where=where,
                got=", ".join(f"{value} in {place}" for place, value in said.items()),
                fix="delete the one that the model was not trained with",
            )
        agreed |= {name: values[0]} if values else {}
    return Rope(**agreed)


def checked_scaling(scaling: Mapping[str, Any] | None, where: str) -> dict[str, Any] | None:
    """The scaling with nothing but its numbers; None where it changes nothing.

    Raises:
        CheckpointError: a kind that is not computed here, numbers that lack or are none, others that it does not have.
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
            fix="choose a model with one of these, or remove rope_scaling if sequences stay short",
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
            "the rotary scaling lacks a number"
            if missing
            else "the rotary scaling has a value that its kind does not",
            where=f"{where}: rope_scaling",
            got=f"{kind} without {missing[0]}" if missing else f"{unknown[0]}: {scaling[unknown[0]]}",
            expected=", ".join(SCALINGS[kind]) or "none",
            fix=_CURE,
        )
    if kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        got = f"{scaling['low_freq_factor']} and {scaling['high_freq_factor']}"
        what = "low_freq_factor must be less than high_freq_factor"
        raise CheckpointError(what, where=f"{where}: rope_scaling", got=got, fix=_CURE)
    return None if kind == "default" else {"rope_type": kind} | {key: scaling[key] for key in numbers}


def spelled_for_4(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``config`` as transformers 4 reads it; that of a part, such as ``text_config``, too."""
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
    """Keys of a config.json that every version of transformers reads alike.

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
        raise CheckpointError("not a JSON object", where=where, got=value, fix=_CURE)
    return {key: one for key, one in value.items() if one is not None}


def _one_for_all(value: object, where: str) -> dict[str, Any]:
    """transformers 5 may give each type of layer its own parameters: here they are the same, or it is refused."""
    parameters = _parameters(value, where)
    if not isinstance(value, dict) or not any(isinstance(one, dict) for one in parameters.values()):
        return parameters
    first = next(iter(value.values()))
    if not isinstance(first, dict) or any(other != first for other in value.values()):
        raise CheckpointError(
            "a rotary embedding of its own for each type of layer",
            where=where,
            got=", ".join(f"{key}: {one}" for key, one in value.items()),
            expected="the same for all",
            fix="choose a model whose layers are alike; a judge that transformers 4 knows can be saved again with it",
        )
    return _parameters(first, where)


def _rope(parameters: dict[str, Any], where: str) -> Rope:
    names = {str(parameters[key]) for key in ("type", "rope_type") if key in parameters}
    if len(names) > 1:
        got = f"type: {parameters['type']}, rope_type: {parameters['rope_type']}"
        raise CheckpointError("two types of one rotary embedding", where=where, got=got, fix=_CURE)
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
        raise CheckpointError("not a positive number", where=f"{where}: {key}", got=repr(value), fix=_CURE)
    return float(value)
