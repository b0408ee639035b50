# SPDX-License-Identifier: Apache-2.0
"""Attention backends for packed prompt trees: one file each, one table, one choice.

A backend is ``attend(query, key, value, params) -> context``: query and context ``[S, heads, head_dim]``, key and
value ``[S, groups, head_dim]``. A new one is a file with ``reason_unavailable`` and ``attend``, and a line in
``BACKENDS``.

>>> choose_backend("auto", torch.device("cpu"), torch.float32)
'cascade'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.trees.backends import cascade, flash_attn, flex, sdpa, torch_varlen, transformer_engine
from nemo_mcpo.trees.params import TreeParams


class Backend(NamedTuple):
    """``reason_unavailable(device, dtype)`` is None where ``attend`` runs."""

    reason_unavailable: Callable[[torch.device, torch.dtype], str | None]
    attend: Callable[[Tensor, Tensor, Tensor, TreeParams], Tensor]


BACKENDS: dict[str, Backend] = {
    "cascade": Backend(cascade.reason_unavailable, cascade.attend),
    "flash_attn": Backend(flash_attn.reason_unavailable, flash_attn.attend),
    "varlen": Backend(torch_varlen.reason_unavailable, torch_varlen.attend),
    "transformer_engine": Backend(transformer_engine.reason_unavailable, transformer_engine.attend),
    "flex": Backend(flex.reason_unavailable, flex.attend),
    "sdpa": Backend(sdpa.reason_unavailable, sdpa.attend),
}
"""``model.attention_backend`` -> backend."""

AUTOMATIC = {
    "cpu": ("cascade", "sdpa"),
    "cuda": ("flash_attn", "varlen", "transformer_engine", "flex"),
}
"""What ``auto`` tries, in this order. On a GPU ``sdpa`` is too slow to be taken without being asked for."""


def choose_backend(requested: str, device: torch.device, dtype: torch.dtype) -> str:
    """A key of ``BACKENDS`` that runs: ``requested``, or for ``auto`` the first of ``AUTOMATIC``; else ConfigError."""
    names = AUTOMATIC[device.type] if requested == "auto" else (requested,)
    reasons = {name: BACKENDS[name].reason_unavailable(device, dtype) for name in names}
    for name, reason in reasons.items():
        if reason is None:
            return name
    raise ConfigError(
        "no attention backend can run here" if requested == "auto" else "this attention backend cannot run here",
        where="model.attention_backend",
        got="; ".join(f"{name}: {reason}" for name, reason in reasons.items()),
        expected=f"one of {', '.join(BACKENDS)}",
        fix="set model.attention_backend=sdpa, which runs anywhere, slowly"
        if requested == "auto"
        else "set model.attention_backend=auto",
    )
