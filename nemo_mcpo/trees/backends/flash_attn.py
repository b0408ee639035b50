# SPDX-License-Identifier: Apache-2.0
"""Backend ``flash_attn``: variable-length attention of the FlashAttention package, in bf16 or fp16 on a GPU.

If queries and keys have different lengths, its causal mask is aligned at their ends, which is what completions need
(2.1 and newer): https://github.com/Dao-AILab/flash-attention
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

import torch
from packaging.version import Version
from torch import Tensor

from nemo_mcpo.trees.backends.varlen_layout import reason_no_varlen, varlen_arguments
from nemo_mcpo.trees.params import TreeParams


def reason_unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    if reason := reason_no_varlen(device, dtype):
        return reason
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash_attn is not installed"
    version = importlib.metadata.version("flash_attn")
    if Version(version) < Version("2.1"):
        return f"flash_attn {version} aligns causal masks at the beginnings; 2.1 or newer is needed"
    return None


def attend(query: Tensor, key: Tensor, value: Tensor, params: TreeParams) -> Tensor:
    """See ``backends.Backend``."""
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(*varlen_arguments(query, key, value, params), causal=True)
