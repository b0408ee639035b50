# SPDX-License-Identifier: Apache-2.0
"""Attention over packed prompt trees: megatron-core's ``core_attention`` submodule.

A prompt token attends to its own prompt up to itself. A completion token attends to its whole prompt and to its own
completion up to itself, never to a sibling or another tree. So every completion has exactly the hidden states that it
would have as a separate sequence:

    allowed[q, k] = (k <= q) and tree[q] = tree[k] and (k is a prompt token or completion[q] = completion[k])
"""

from __future__ import annotations

from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from nemo_mcpo.trees.params import TreeParams
from nemo_mcpo.trees.rotary import rotate


class TreeAttention(MegatronModule):
    """Rotates queries and keys by their positions and attends as the row's ``TreeParams`` specify; has no weights."""

    def __init__(self, config, layer_number, attn_mask_type, attention_type, *args, **kwargs) -> None:
        super().__init__(config=config)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type=None,
        attention_bias=None,
        packed_seq_params: TreeParams | None = None,
    ) -> Tensor:
        """Return the context, ``[S, 1, heads * head_dim]``.

        Args:
            query: ``[S, 1, heads, head_dim]``.
            key, value: ``[S, 1, groups, head_dim]``.
            packed_seq_params: the row's spans, rotation, and backend; megatron-core's other arguments are not used.
        """
        if packed_seq_params is None or packed_seq_params.attend is None:
            raise ValueError("tree attention needs the row's TreeParams as packed_seq_params")
        query, key, value = query[:, 0], key[:, 0], value[:, 0]
        if packed_seq_params.rotation is not None:
            query, key = (rotate(heads, packed_seq_params.rotation) for heads in (query, key))
        context = packed_seq_params.attend(query, key, value, packed_seq_params)
        return context.flatten(1)[:, None]
