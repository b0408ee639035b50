# SPDX-License-Identifier: Apache-2.0
"""Backend ``transformer_engine``: Transformer Engine's fused attention on packed sequences (thd), on a GPU.

The mask must be ``padding_causal_bottom_right``. With plain ``padding_causal``, queries and keys of different lengths
are aligned at their beginnings: the results are wrong, and the only sign is a warning in the log.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor

from nemo_mcpo.trees.backends.varlen_layout import reason_no_varlen, varlen_layout
from nemo_mcpo.trees.params import TreeParams


def reason_unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    if reason := reason_no_varlen(device, dtype):
        return reason
    return (
        None if importlib.util.find_spec("transformer_engine") else "the package transformer_engine is not installed"
    )


def attend(query: Tensor, key: Tensor, value: Tensor, params: TreeParams) -> Tensor:
    """See ``backends.Backend``."""
    layout = params.derived(varlen_layout)
    attention = _attention(query.shape[1], key.shape[1], query.shape[2])
    context = attention(
        query,
        layout.gather(key),
        layout.gather(value),
        cu_seqlens_q=layout.query_offsets,
        cu_seqlens_kv=layout.key_offsets,
        max_seqlen_q=layout.longest_query,
        max_seqlen_kv=layout.longest_key,
    )
    return context.view_as(query)


@cache
def _attention(num_heads: int, num_groups: int, head_dim: int):
    """Return Transformer Engine's attention module; it has no weights, so all layers share one."""
    from transformer_engine.pytorch import DotProductAttention

    return DotProductAttention(
        num_heads,
        head_dim,
        num_gqa_groups=num_groups,
        attention_dropout=0.0,
        qkv_format="thd",
        attn_mask_type="padding_causal_bottom_right",
    )
