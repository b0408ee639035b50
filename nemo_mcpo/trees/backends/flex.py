# SPDX-License-Identifier: Apache-2.0
"""Backend ``flex``: FlexAttention with the tree mask as a function, compiled to a block-sparse kernel on a GPU.

Any dtype, float32 included, which the flash backends do not take. https://pytorch.org/blog/flexattention
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from nemo_mcpo.trees.params import TreeParams


def reason_unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot run, or None."""
    if device.type != "cuda":
        return "it needs a GPU: on a CPU it has no backward pass"
    if dtype == torch.float64:
        return "it does not compute in float64"
    return None if importlib.util.find_spec("triton") else "the package triton is not installed"


def attend(query: Tensor, key: Tensor, value: Tensor, params: TreeParams) -> Tensor:
    """See ``backends.Backend``."""
    query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    return _compiled()(query, key, value, block_mask=params.derived(block_mask), enable_gqa=True)[0].transpose(0, 1)


def block_mask(params: TreeParams):
    """FlexAttention's ``BlockMask`` of a row, ``[1, 1, S, S]`` in blocks."""
    from torch.nn.attention.flex_attention import create_block_mask

    num_tokens = params.spans[-1].stop
    return create_block_mask(mask_function(params), None, None, num_tokens, num_tokens, device=params.device.type)


def mask_function(params: TreeParams) -> Callable[[object, object, Tensor, Tensor], Tensor]:
    """``allowed(batch, head, query, key)`` of a row, for positions that broadcast; batch and head do not matter."""
    tree_S, branch_S = _branches(params)

    def allowed(batch: object, head: object, query: Tensor, key: Tensor) -> Tensor:
        is_open = (branch_S[key] < 0) | (branch_S[key] == branch_S[query])
        return (key <= query) & (tree_S[key] == tree_S[query]) & is_open

    return allowed


def _branches(params: TreeParams) -> tuple[Tensor, Tensor]:
    """int32 ``[S]``: number of a token's tree, and of its completion in the tree, -1 in a prompt."""
    tree_S, branch_S = (np.full(params.spans[-1].stop, -1, np.int32) for _ in range(2))
    for number, span in enumerate(params.spans):
        tree_S[span.start : span.stop] = number
        for branch, (start, stop) in enumerate(span.completions):
            branch_S[start:stop] = branch
    return torch.from_numpy(tree_S).to(params.device), torch.from_numpy(branch_S).to(params.device)


@cache
def _compiled():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
