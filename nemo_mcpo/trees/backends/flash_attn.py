# SPDX-License-Identifier: Apache-2.0
"""Backend ``flash_attn``: the FlashAttention package's variable-length kernel, in bf16 or fp16 on a GPU.

With queries and keys of different lengths its causal mask is aligned at the ends, which is what completions need:
https://github.com/Dao-AILab/flash-attention (2.1 and newer).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

import torch
from packaging.version import Version
from torch import Tensor

from nemo_mcpo.trees.backends.varlen_layout import reason_no_varlen_kernel, varlen_arguments
from nemo_mcpo.trees.params import TreeParams


def reason_unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot run, or None."""
    if reason := reason_no_varlen_kernel(device, dtype):
        return reason
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash_attn is not installed"
    version = importlib.metadata.version("flash_attn")
    if Version(version) < Version("2.1"):
        return f"flash_attn {version} aligns causal masks at the beginnings; 2.1 and newer at the ends"
    return None


def attend(query: Tensor, key: Tensor, value: Tensor, params: TreeParams) -> Tensor:
    """See ``backends.Backend``."""
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(*varlen_arguments(query, key, value, params), causal=True)
