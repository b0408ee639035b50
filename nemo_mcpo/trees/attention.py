# SPDX-License-Identifier: Apache-2.0
"""Attention over packed prompt trees.

A prompt token sees its own prompt up to itself; a completion token sees its whole prompt and its own completion up to
itself, never a sibling and never another tree, so that every completion gets exactly the hidden states that it would
get as a sequence of its own:

    allowed[q, k] = (k <= q) and tree[q] = tree[k] and (k is a prompt token or completion[q] = completion[k])
"""

from __future__ import annotations

import torch
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from nemo_mcpo.records import TreeBatch


def tree_attention_mask(batch: TreeBatch) -> Tensor:
    """Boolean ``[1, 1, S, S]``, True where the query (row) may see the key (column).

    Padding belongs to no tree and sees padding only, so that no softmax is empty.
    """
    index_S = torch.arange(len(batch.tree_S), device=batch.tree_S.device)
    causal = index_S[None, :] <= index_S[:, None]
    same_tree = batch.tree_S[None, :] == batch.tree_S[:, None]
    own_branch = (batch.completion_S[None, :] < 0) | (batch.completion_S[None, :] == batch.completion_S[:, None])
    return (causal & same_tree & own_branch)[None, None]


def tree_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention under a tree mask; the single place where attention is computed.

    Args:
        query: ``[S, b, heads, head_dim]``.
        key, value: ``[S, b, groups, head_dim]`` with heads divisible by groups.
        mask: ``[1, 1, S, S]`` from ``tree_attention_mask``.

    Returns:
        ``[S, b, heads * head_dim]``.
    """
    repeats = query.shape[2] // key.shape[2]
    if repeats > 1:  # repeating the heads is faster than enable_gqa on CPU
        key, value = key.repeat_interleave(repeats, dim=2), value.repeat_interleave(repeats, dim=2)
    query, key, value = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
    context = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return context.permute(2, 0, 1, 3).flatten(2)


class TreeAttention(MegatronModule):
    """The ``core_attention`` submodule of a megatron-core layer; its mask is True where attention is allowed."""

    def __init__(self, config, layer_number, attn_mask_type, attention_type, *args, **kwargs) -> None:
        super().__init__(config=config)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor,
        attn_mask_type=None,
        attention_bias=None,
        packed_seq_params=None,
    ) -> Tensor:
        """See ``tree_attention``."""
        return tree_attention(query, key, value, attention_mask)
