# SPDX-License-Identifier: Apache-2.0
"""Backend ``flash_attn``: the FlashAttention package's variable-length kernel, in bf16 or fp16 on a GPU.

With queries and keys of different lengths its causal mask is aligned at the ends, which is what completions need:
https://github.com/Dao-AILab/flash-attention (2.1 and newer).
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from nemo_mcpo.trees.backends.varlen_layout import varlen_layout
from nemo_mcpo.trees.params import TreeParams


def reason_unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot run, or None."""
    if device.type != "cuda":
        return "it needs a GPU"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it computes in bf16 and fp16, not in {dtype}"
    return None if importlib.util.find_spec("flash_attn") else "the package flash_attn is not installed"


def attend(query: Tensor, key: Tensor, value: Tensor, params: TreeParams) -> Tensor:
    """See ``backends.Backend``."""
    from flash_attn import flash_attn_varlen_func

    layout = params.derived(varlen_layout)
    return flash_attn_varlen_func(
        query,
        layout.gather(key),
        layout.gather(value),
        layout.query_offsets,
        layout.key_offsets,
        layout.longest_query,
        layout.longest_key,
        causal=True,
    )
