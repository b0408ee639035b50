# SPDX-License-Identifier: Apache-2.0
"""Rotary embedding by position id.

megatron-core indexes its rotary table by the place in the row; in a packed tree every completion restarts at its
prompt's length, so here the angles come from the position ids, once a row, and attention turns queries and keys:

    angle[s, j] = position[s] · θ^(−2j / head_dim),   j = 0 … head_dim/2 − 1

    (x_j, x_{j + head_dim/2})  ->  (x_j cos − x_{j + head_dim/2} sin,  x_{j + head_dim/2} cos + x_j sin)

>>> inverse_frequencies(4, theta=100.0, scaling=None).tolist() == [1.0, torch.tensor(0.1).item()]
True
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.platform.compiled import compiled_on_gpu


def inverse_frequencies(head_dim: int, theta: float, scaling: dict[str, object] | None) -> Tensor:
    """Inverse frequencies, float32 ``[head_dim / 2]``; ``scaling`` is Hugging Face's ``rope_scaling`` dictionary.

    Raises:
        CheckpointError: a scaling whose angles depend on more than the position (dynamic, yarn, longrope).
    """
    plain = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    parameters = scaling or {"rope_type": "default"}
    rope_type = str(parameters.get("rope_type", parameters.get("type", "default")))
    if rope_type not in ROPE_SCALINGS:
        raise CheckpointError(
            "this rotary scaling is not supported",
            where="config.json: rope_scaling.rope_type",
            got=rope_type,
            expected=" | ".join(ROPE_SCALINGS),
            fix="choose a model with one of these, or remove rope_scaling if sequences stay short",
        )
    return ROPE_SCALINGS[rope_type](plain, parameters)


def _default(frequencies: Tensor, parameters: dict) -> Tensor:
    return frequencies


def _linear(frequencies: Tensor, parameters: dict) -> Tensor:
    return frequencies / float(parameters["factor"])


def _llama3(frequencies: Tensor, parameters: dict) -> Tensor:
    """Llama 3.1: long wavelengths are stretched by ``factor``, short ones kept, those between interpolated."""
    factor = float(parameters["factor"])
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    turns = float(parameters["original_max_position_embeddings"]) / (2 * math.pi / frequencies)
    kept_share = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return kept_share * frequencies + (1 - kept_share) * frequencies / factor


ROPE_SCALINGS: dict[str, Callable[[Tensor, dict], Tensor]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
}


class Rotation(NamedTuple):
    """What turns the queries and keys of a row: cosines and sines of every angle, float32 ``[S, 1, head_dim / 2]``."""

    cos: Tensor
    sin: Tensor


def rotation_by_position(inverse_frequencies: Tensor, positions_S: Tensor) -> Rotation:
    """The rotation of a row, for all of its layers; both are on one device."""
    angles = torch.outer(positions_S.float(), inverse_frequencies)[:, None]
    return Rotation(angles.cos(), angles.sin())


def rotate(heads: Tensor, rotation: Rotation) -> Tensor:
    """Queries or keys ``[S, heads, head_dim]`` with every pair (j, j + head_dim / 2) turned by its angle."""
    return _Rotate.apply(heads, *rotation)


class _Rotate(torch.autograd.Function):
    """Keeps nothing but the row's rotation: the gradient is turned back."""

    @staticmethod
    def forward(ctx, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(heads.detach(), cos, sin)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, -sin), None, None


@compiled_on_gpu
def _turn(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """In float32 or wider, rounded once, to the type that came."""
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(heads.dtype)
