# SPDX-License-Identifier: Apache-2.0
"""A row of trees as sequences for variable-length attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nemo_mcpo.platform.transfer import on_device
from nemo_mcpo.trees.params import TreeParams


@dataclass(frozen=True, slots=True)
class VarlenLayout:
    """A row as end-aligned causal sequences: each prompt attends to itself, each completion to [prompt | itself].

    The queries are the row itself. Keys and values are gathered, G in total: those of a prompt once for itself and
    once for each of its completions.

    Attributes:
        query_offsets, key_offsets: int32 ``[sequences + 1]``.
        longest_query, longest_key: in tokens.
        gather_G: position in the row of each gathered key.
        own_S: index in G of each position of the row, as gathered for its own sequence.
        copies: pairs ``(positions, places)``, one for the prompts' first completions, one for their second ones, …:
            positions of those prompts in the row, and the indices in G of their copies. The positions of a pair are
            distinct.
    """

    query_offsets: Tensor
    key_offsets: Tensor
    longest_query: int
    longest_key: int
    gather_G: Tensor
    own_S: Tensor
    copies: tuple[tuple[Tensor, Tensor], ...]

    def gather(self, tensor_S: Tensor) -> Tensor:
        """Gather the row's keys or values: ``[S, …]`` to ``[G, …]``."""
        return _Gather.apply(tensor_S, self)


def reason_no_varlen(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why variable-length attention cannot run, whichever package provides it, or None."""
    if device.type != "cuda":
        return "it needs a GPU"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it supports bf16 and fp16, not {dtype}"
    return None


def varlen_arguments(
    query: Tensor, key: Tensor, value: Tensor, params: TreeParams
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int, int]:
    """Return the leading positional arguments of FlashAttention's variable-length functions, in order."""
    layout = params.derived(varlen_layout)
    return (
        query,
        layout.gather(key),
        layout.gather(value),
        layout.query_offsets,
        layout.key_offsets,
        layout.longest_query,
        layout.longest_key,
    )


def varlen_layout(params: TreeParams) -> VarlenLayout:
    """Build the layout of a row; call it as ``params.derived(varlen_layout)``, so that all layers share it."""
    query_lengths, key_lengths, gather, own = [], [], [], []
    copies: dict[int, tuple[list, list]] = {}
    place = 0

    def add(start: int, stop: int) -> np.ndarray:
        """Gather these positions next, and return their indices in G."""
        nonlocal place
        gather.append(np.arange(start, stop))
        place += stop - start
        return np.arange(place - (stop - start), place)

    for span in params.spans:
        own.append(add(span.start, span.prompt_stop))
        query_lengths.append(span.prompt_stop - span.start)
        key_lengths.append(query_lengths[-1])
        for number, (start, stop) in enumerate(span.completions):
            positions, places = copies.setdefault(number, ([], []))
            positions.append(np.arange(span.start, span.prompt_stop))
            places.append(add(span.start, span.prompt_stop))
            own.append(add(start, stop))
            query_lengths.append(stop - start)
            key_lengths.append(span.prompt_stop - span.start + stop - start)

    offsets = [np.cumsum([0, *lengths], dtype=np.int32) for lengths in (query_lengths, key_lengths)]
    indices = [np.concatenate(parts) for parts in (gather, own, *(part for copy in copies.values() for part in copy))]
    query_offsets, key_offsets, gather_G, own_S, *copied = on_device(
        [torch.from_numpy(integers) for integers in (*offsets, *indices)], params.device
    )
    return VarlenLayout(
        query_offsets=query_offsets,
        key_offsets=key_offsets,
        longest_query=max(query_lengths),
        longest_key=max(key_lengths),
        gather_G=gather_G,
        own_S=own_S,
        copies=tuple(zip(copied[::2], copied[1::2], strict=True)),
    )


class _Gather(torch.autograd.Function):
    """``index_select`` with a deterministic backward: it adds one copy after another, not by unordered atomics."""

    @staticmethod
    def forward(ctx, tensor_S: Tensor, layout: VarlenLayout) -> Tensor:
        ctx.layout = layout
        return tensor_S.index_select(0, layout.gather_G)

    @staticmethod
    def backward(ctx, gradient_G: Tensor) -> tuple[Tensor, None]:
        gradient_S = gradient_G.index_select(0, ctx.layout.own_S)
        for positions, places in ctx.layout.copies:
            gradient_S.index_add_(0, positions, gradient_G.index_select(0, places))
        return gradient_S, None
