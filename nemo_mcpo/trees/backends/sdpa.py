# SPDX-License-Identifier: Apache-2.0
"""Backend ``sdpa``: torch's public ``scaled_dot_product_attention``; on any device, in any dtype.

It makes one call per prompt and one per completion, with a mask ``[C, P + C]`` for one completion at a time: the
simplest backend, and a reference for the others.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from nemo_mcpo.trees.params import TreeParams


def reason_unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return None: this backend runs everywhere."""
    return None


def attend(query: Tensor, key: Tensor, value: Tensor, params: TreeParams) -> Tensor:
    """See ``backends.Backend``."""
    query, key, value = heads_first(query, key, value)
    outputs = []
    for span in params.spans:
        prompt = slice(span.start, span.prompt_stop)
        prompt_key, prompt_value = key[:, :, prompt], value[:, :, prompt]
        outputs.append(scaled_dot_product_attention(query[:, :, prompt], prompt_key, prompt_value, is_causal=True))
        for start, stop in span.completions:
            own = slice(start, stop)
            outputs.append(
                scaled_dot_product_attention(
                    query[:, :, own],
                    torch.cat((prompt_key, key[:, :, own]), dim=2),
                    torch.cat((prompt_value, value[:, :, own]), dim=2),
                    attn_mask=_end_aligned(stop - start, prompt_key.shape[2], query.device),
                )
            )
    return torch.cat(outputs, dim=2)[0].transpose(0, 1)


def heads_first(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``[S, heads, d]`` and twice ``[S, groups, d]`` as three tensors ``[1, heads, S, d]``."""
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:  # repeating the heads is faster than enable_gqa on CPU
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    return query.transpose(0, 1)[None], key.transpose(0, 1)[None], value.transpose(0, 1)[None]


def _end_aligned(num_queries: int, num_before: int, device: torch.device) -> Tensor:
    """Return ``[C, P + C]``, True where a completion token attends: its prompt, and its completion up to itself."""
    return torch.ones(num_queries, num_before + num_queries, dtype=torch.bool, device=device).tril(num_before)
