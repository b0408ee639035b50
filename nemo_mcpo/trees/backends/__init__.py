# SPDX-License-Identifier: Apache-2.0
"""Attention backends for packed prompt trees: one file per backend, their table, and the choice of one.

A backend is ``attend(query, key, value, params) -> context``: query and context are ``[S, heads, head_dim]``, key and
value ``[S, groups, head_dim]``. To add one, write a file with ``reason_unavailable`` and ``attend`` and add a line to
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
    """``reason_unavailable(device, dtype)`` is None if ``attend`` can run."""

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
"""What ``auto`` tries, in this order. On a GPU, ``sdpa`` is so slow that it must be requested by name."""


def choose_backend(requested: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return the backend to use, a key of ``BACKENDS``: ``requested``, or for ``auto`` the first that can run.

    Raises:
        ConfigError: none of them can run.
    """
    names = AUTOMATIC[device.type] if requested == "auto" else (requested,)
    reasons = {name: BACKENDS[name].reason_unavailable(device, dtype) for name in names}
    for name, reason in reasons.items():
        if reason is None:
            return name
    raise ConfigError(
        "no attention backend is available" if requested == "auto" else "this attention backend is not available",
        where="model.attention_backend",
        got="; ".join(f"{name}: {reason}" for name, reason in reasons.items()),
        expected=f"one of {', '.join(BACKENDS)}",
        fix="set model.attention_backend=sdpa, which is slow but runs everywhere"
        if requested == "auto"
        else "set model.attention_backend=auto",
    )
