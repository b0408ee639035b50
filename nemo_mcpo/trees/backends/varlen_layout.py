# SPDX-License-Identifier: Apache-2.0
"""A row of trees as the sequences of a variable-length attention kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nemo_mcpo.platform.transfer import on_device
from nemo_mcpo.trees.params import TreeParams


@dataclass(frozen=True, slots=True)
class VarlenLayout:
    """A row as causal sequences, aligned at their ends: every prompt on itself, every completion on [prompt | itself].

    The queries are the row as it lies. Keys and values are gathered: a prompt's once for itself and once for each of
    its completions, G in all.

    Attributes:
        query_offsets, key_offsets: int32 ``[sequences + 1]``.
        longest_query, longest_key: tokens.
        gather_G: the row's position of every gathered key.
        own_S: the place in G of every position, gathered for its own sequence.
        copies: ``(positions, places)``: where prompts were gathered to for their first, second, … completion;
            positions of one entry are distinct.
    """

    query_offsets: Tensor
    key_offsets: Tensor
    longest_query: int
    longest_key: int
    gather_G: Tensor
    own_S: Tensor
    copies: tuple[tuple[Tensor, Tensor], ...]

    def gather(self, tensor_S: Tensor) -> Tensor:
        """Keys or values of the row, ``[S, …]``, as ``[G, …]``."""
        return _Gather.apply(tensor_S, self)


def reason_no_varlen_kernel(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why no variable-length kernel can run, whichever package it comes from, or None."""
    if device.type != "cuda":
        return "it needs a GPU"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it computes in bf16 and fp16, not in {dtype}"
    return None


def varlen_arguments(
    query: Tensor, key: Tensor, value: Tensor, params: TreeParams
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int, int]:
    """What FlashAttention's variable-length kernels take first, in their order."""
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
    """See ``VarlenLayout``; use it as ``params.derived(varlen_layout)``."""
    query_lengths, key_lengths, gather, own = [], [], [], []
    copies: dict[int, tuple[list, list]] = {}
    place = 0

    def add(start: int, stop: int) -> np.ndarray:
        """Gather these positions next; their places."""
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
    """``index_select`` whose backward adds copy by copy: in a fixed order, where atomic additions would not be."""

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
