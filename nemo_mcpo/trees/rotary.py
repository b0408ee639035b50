# SPDX-License-Identifier: Apache-2.0
"""Rotary embedding by position id.

megatron-core indexes its rotary table by the place in the row. In a packed tree, every completion restarts at its
prompt's length, so angles are computed from position ids, once per row, and attention rotates queries and keys:

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
    """Return inverse frequencies, float32 ``[head_dim / 2]``; ``scaling`` is Hugging Face's ``rope_scaling``.

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
            fix="choose a model with a supported type, or remove rope_scaling if all sequences are short",
        )
    return ROPE_SCALINGS[rope_type](plain, parameters)


def _llama3(frequencies: Tensor, parameters: dict) -> Tensor:
    """Llama 3.1: stretch long wavelengths by ``factor``, keep short ones, and interpolate between them."""
    factor = float(parameters["factor"])
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    turns = float(parameters["original_max_position_embeddings"]) / (2 * math.pi / frequencies)
    kept_share = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return kept_share * frequencies + (1 - kept_share) * frequencies / factor


ROPE_SCALINGS: dict[str, Callable[[Tensor, dict], Tensor]] = {
    "default": lambda frequencies, parameters: frequencies,
    "linear": lambda frequencies, parameters: frequencies / float(parameters["factor"]),
    "llama3": _llama3,
}


class Rotation(NamedTuple):
    """The rotation of a row's queries and keys: cosines and sines of the angles, float32 ``[S, 1, head_dim / 2]``."""

    cos: Tensor
    sin: Tensor


def rotation_by_position(inverse_frequencies: Tensor, positions_S: Tensor) -> Rotation:
    """Return the rotation of a row, for all layers; both arguments are on the same device."""
    angles = torch.outer(positions_S.float(), inverse_frequencies)[:, None]
    return Rotation(angles.cos(), angles.sin())


def rotate(heads: Tensor, rotation: Rotation) -> Tensor:
    """Return queries or keys ``[S, heads, head_dim]`` with each pair (j, j + head_dim / 2) rotated by its angle."""
    return _Rotate.apply(heads, *rotation)


class _Rotate(torch.autograd.Function):
    """Saves only the row's rotation for the backward pass, which rotates the gradient back."""

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
    """Rotate in float32 or wider, and round once, to the dtype of ``heads``."""
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(heads.dtype)
