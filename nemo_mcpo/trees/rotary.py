# SPDX-License-Identifier: Apache-2.0
"""Rotary embedding by position id.

megatron-core indexes its rotary table by the place in the row; in a packed tree every completion restarts at its
prompt's length, so here the angles come from the position ids:

    angle[s, j] = position[s] · θ^(−2j / head_dim),   j = 0 … head_dim/2 − 1

>>> inverse_frequencies(4, theta=100.0, scaling=None).tolist() == [1.0, torch.tensor(0.1).item()]
True
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nemo_mcpo.errors import CheckpointError


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
            cure="choose a model with one of these, or remove rope_scaling if sequences stay short",
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


def rotary_by_position(inverse_frequencies: Tensor, positions_S: Tensor) -> Tensor:
    """Angles in megatron-core's non-interleaved layout, float32 ``[S, 1, 1, head_dim]``."""
    angles = torch.outer(positions_S.float(), inverse_frequencies.to(positions_S.device))
    return torch.cat((angles, angles), dim=-1)[:, None, None, :]
