# SPDX-License-Identifier: Apache-2.0
"""How Hugging Face tensors are split into tensor-parallel parameters and joined again.

Each layout is a pair of pure functions with ``join([split(t, r, n) for r in range(n)]) == t``:

    replicated       every rank holds the tensor
    columns          rank r holds its share of the columns (row-parallel linear layers)
    vocabulary       rank r holds its share of the rows, padded with zeros to ``padded_vocab_size``
    gate_up          rank r holds [gate_r; up_r]
    query_key_value  rank r holds whole groups, each [queries of the group; key; value]

A source is a tensor or any object that has a shape and slices like one, so that each rank reads only what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from nemo_mcpo.models.architecture import ModelArchitecture


class Sliceable(Protocol):
    """What ``split`` requires of a source."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, index: slice | tuple[slice, ...], /) -> torch.Tensor: ...


class Layout(NamedTuple):
    """``split(sources, architecture, rank, size)`` gives a rank's part; ``join(shards, architecture)`` undoes it."""

    split: Callable[[Sequence[Sliceable], ModelArchitecture, int, int], torch.Tensor]
    join: Callable[[Sequence[torch.Tensor], ModelArchitecture], list[torch.Tensor]]


def _share(total: int, rank: int, size: int) -> slice:
    return slice(total * rank // size, total * (rank + 1) // size)


def _split_vocabulary(
    sources: Sequence[Sliceable], architecture: ModelArchitecture, rank: int, size: int
) -> torch.Tensor:
    rows = _share(architecture.padded_vocab_size, rank, size)
    first, last = min(rows.start, architecture.vocab_size), min(rows.stop, architecture.vocab_size)
    tensor = sources[0][first:last]
    num_padding = rows.stop - rows.start - (last - first)
    return torch.cat([tensor, tensor.new_zeros(num_padding, *tensor.shape[1:])]) if num_padding else tensor


def _join_vocabulary(shards: Sequence[torch.Tensor], architecture: ModelArchitecture) -> list[torch.Tensor]:
    return [torch.cat(list(shards))[: architecture.vocab_size]]


def _split_gate_up(sources: Sequence[Sliceable], _: ModelArchitecture, rank: int, size: int) -> torch.Tensor:
    return torch.cat([source[_share(source.shape[0], rank, size)] for source in sources])


def _join_gate_up(shards: Sequence[torch.Tensor], _: ModelArchitecture) -> list[torch.Tensor]:
    gates, ups = zip(*(shard.chunk(2) for shard in shards), strict=True)
    return [torch.cat(gates), torch.cat(ups)]


def _split_query_key_value(
    sources: Sequence[Sliceable], architecture: ModelArchitecture, rank: int, size: int
) -> torch.Tensor:
    num_groups = architecture.num_query_groups // size
    per_group = []
    for source in sources:
        tensor = source[_share(source.shape[0], rank, size)]
        per_group.append(tensor.reshape(num_groups, -1, *tensor.shape[1:]))
    return torch.cat(per_group, dim=1).flatten(0, 1)


def _join_query_key_value(shards: Sequence[torch.Tensor], architecture: ModelArchitecture) -> list[torch.Tensor]:
    fused = torch.cat(list(shards))
    groups = fused.reshape(architecture.num_query_groups, -1, *fused.shape[1:])
    num_queries = architecture.num_attention_heads // architecture.num_query_groups * architecture.head_dim
    sizes = [num_queries, architecture.head_dim, architecture.head_dim]
    return [part.flatten(0, 1) for part in groups.split(sizes, dim=1)]


LAYOUTS: dict[str, Layout] = {
    "replicated": Layout(lambda sources, _, rank, size: sources[0][:], lambda shards, _: [shards[0]]),
    "columns": Layout(
        lambda sources, _, rank, size: sources[0][:, _share(sources[0].shape[1], rank, size)],
        lambda shards, _: [torch.cat(list(shards), dim=1)],
    ),
    "vocabulary": Layout(_split_vocabulary, _join_vocabulary),
    "gate_up": Layout(_split_gate_up, _join_gate_up),
    "query_key_value": Layout(_split_query_key_value, _join_query_key_value),
}
