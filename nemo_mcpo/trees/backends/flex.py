# SPDX-License-Identifier: Apache-2.0
"""Backend ``flex``: FlexAttention with the tree mask as a function, compiled to a block-sparse GPU kernel.

Supports float32, unlike the FlashAttention backends. https://pytorch.org/blog/flexattention
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from nemo_mcpo.platform.compiled import unheard
from nemo_mcpo.platform.transfer import on_device
from nemo_mcpo.records import TreeSpan
from nemo_mcpo.trees.params import TreeParams

BLOCK_SIZE = 128
"""Queries and keys per block; FlexAttention's GPU kernels are tuned for this size."""


def reason_unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return "it needs a GPU: on a CPU it has no backward pass"
    if dtype == torch.float64:
        return "it does not support float64"
    return None if importlib.util.find_spec("triton") else "the package triton is not installed"


def attend(query: Tensor, key: Tensor, value: Tensor, params: TreeParams) -> Tensor:
    """See ``backends.Backend``."""
    query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    with unheard():
        context = _compiled()(query, key, value, block_mask=params.derived(block_mask), enable_gqa=True)
    return context[0].transpose(0, 1)


def block_mask(params: TreeParams):
    """Return FlexAttention's ``BlockMask`` of a row, ``[1, 1, S, S]`` in blocks, without building an S × S mask."""
    from torch.nn.attention.flex_attention import BlockMask

    touched_QK, full_QK = attending_blocks(params.spans)
    num_tokens = params.spans[-1].stop
    listed = on_device([*_listed(touched_QK & ~full_QK), *_listed(full_QK)], params.device)
    counts, numbers, full_counts, full_numbers = (integers[None, None] for integers in listed)
    return BlockMask.from_kv_blocks(
        counts,
        numbers,
        full_counts,
        full_numbers,
        BLOCK_SIZE=BLOCK_SIZE,
        mask_mod=mask_function(params),
        seq_lengths=(num_tokens, num_tokens),
    )


def attending_blocks(spans: tuple[TreeSpan, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return two bool tables ``[Q, K]``, by query block and key block: any pair in it attends, and all pairs do."""
    starts = np.arange(0, spans[-1].stop, BLOCK_SIZE)
    stops = starts + BLOCK_SIZE
    touched, full = (np.zeros((len(starts), len(starts)), bool) for _ in range(2))

    def add(queries: tuple[int, int], keys: tuple[int, int]) -> None:
        """Mark that each query of one range attends to the keys of another range up to its own position."""
        rows, columns = (slice(first // BLOCK_SIZE, -(-stop // BLOCK_SIZE)) for first, stop in (queries, keys))
        last_query = np.minimum(stops[rows], queries[1]) - 1
        first_key = np.maximum(starts[columns], keys[0])
        touched[rows, columns] |= last_query[:, None] >= first_key[None, :]
        inside = (starts[rows] >= queries[0]) & (stops[rows] <= queries[1])
        seen = (starts[columns] >= keys[0]) & (stops[columns] <= keys[1])
        behind = starts[rows][:, None] >= stops[columns][None, :] - 1
        full[rows, columns] |= inside[:, None] & seen[None, :] & behind

    for span in spans:
        prompt = (span.start, span.prompt_stop)
        for own in (prompt, *span.completions):
            add(own, own)
        if span.completion_stops:
            add((span.prompt_stop, span.stop), prompt)
    return touched, full


def _listed(blocks_QK: np.ndarray) -> list[Tensor]:
    """Return how many key blocks each query block has, int32 ``[Q]``, and their numbers, int32 ``[Q, K]``."""
    counts_Q, numbers_QK = blocks_QK.sum(1), np.argsort(~blocks_QK, axis=1, kind="stable")
    return [torch.from_numpy(array.astype(np.int32)) for array in (counts_Q, numbers_QK)]


def mask_function(params: TreeParams) -> Callable[[object, object, Tensor, Tensor], Tensor]:
    """Return a row's ``allowed(batch, head, query, key)``; positions broadcast, batch and head are not used."""
    tree_S, branch_S = _branches(params)

    def allowed(batch: object, head: object, query: Tensor, key: Tensor) -> Tensor:
        is_open = (branch_S[key] < 0) | (branch_S[key] == branch_S[query])
        return (key <= query) & (tree_S[key] == tree_S[query]) & is_open

    return allowed


def _branches(params: TreeParams) -> list[Tensor]:
    """Return each token's tree number and completion number, -1 in a prompt; int32 ``[S]`` each."""
    tree_S, branch_S = (np.full(params.spans[-1].stop, -1, np.int32) for _ in range(2))
    for number, span in enumerate(params.spans):
        tree_S[span.start : span.stop] = number
        for branch, (start, stop) in enumerate(span.completions):
            branch_S[start:stop] = branch
    return on_device([torch.from_numpy(tree_S), torch.from_numpy(branch_S)], params.device)


@cache
def _compiled():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
