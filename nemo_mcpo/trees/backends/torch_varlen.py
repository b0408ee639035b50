# SPDX-License-Identifier: Apache-2.0
"""Backend ``varlen``: ``torch.nn.attention.varlen``, torch's own FlashAttention, in bf16 or fp16 on a GPU.

Like FlashAttention's, its causal mask is aligned at the ends of queries and keys.
"""

from __future__ import annotations

import importlib.util
import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nemo_mcpo.trees.backends.varlen_layout import reason_no_varlen, varlen_arguments
from nemo_mcpo.trees.params import TreeParams


def reason_unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    if reason := reason_no_varlen(device, dtype):
        return reason
    found = importlib.util.find_spec("torch.nn.attention.varlen")
    return None if found else f"torch {torch.__version__} has no torch.nn.attention.varlen; 2.10 or newer is needed"


def attend(query: Tensor, key: Tensor, value: Tensor, params: TreeParams) -> Tensor:
    """See ``backends.Backend``."""
    from torch.nn.attention.varlen import varlen_attn

    context = varlen_attn(*varlen_arguments(query, key, value, params), **_options())
    assert isinstance(context, Tensor)  # it is a tuple only if log-sum-exps are requested
    return context


@cache
def _options() -> dict[str, Any]:
    """Return the arguments for a causal mask and shared key heads, which differ between torch 2.10 and later."""
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}
    return causal | ({"enable_gqa": True} if "enable_gqa" in known else {})
