# SPDX-License-Identifier: Apache-2.0
"""The optimizer's states, between the replicas that share them and the first one, which writes and reads checkpoints.

Takes the place of megatron-core's ``fully_reshardable`` exchange; the files are the same. Some million elements are on
a GPU at a time, and only the first replica has states on its host, 12 bytes a parameter. megatron-core's own needs 8
to 20 more there and copies 12 again to write them, or, by NCCL, has a whole state on every GPU.

A parameter is where the buffer's map has it. megatron-core leaves the padding between buckets out of what it gathers,
and then reads beside a parameter's place, as it warns itself ("which can lead to data corruption"): where two pipeline
stages share an embedding there are two buckets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_mcpo.models.budgets import ELEMENTS_PER_EXCHANGE

STATES = ("param", "exp_avg", "exp_avg_sq")
"""As megatron-core calls them; ``param`` are the float32 weights."""

Piece = tuple[int, Tensor]
"""Where a flat tensor begins in a larger one, and the tensor."""


def exchange_in_pieces(part: Any) -> None:
    """Let a ``DistributedOptimizer`` gather and scatter its states by this module."""
    part.get_parameter_state_dp_zero = partial(gather_states, part)
    part.load_parameter_state_from_fully_reshardable = partial(scatter_states, part)


class Pieces:
    """A flat tensor in pieces; megatron-core asks for one at a time, and copies those that are part of a storage."""

    def __init__(self, places: Sequence[tuple[int, int]]) -> None:
        self.tensors = {start: torch.zeros(stop - start, dtype=torch.float32) for start, stop in places}

    def __getitem__(self, place: slice) -> Tensor:
        return self.tensors[place.start]


@torch.no_grad()
def gather_states(part: Any, *, empty_data: bool, **ignored: bool) -> dict[object, Any] | None:
    """Every buffer's states, float32 on the host of the first replica; None on the others.

    Args:
        part: a ``DistributedOptimizer``; all of its replicas call this.
        empty_data: tensors to read a checkpoint into, without what is in the states.
        ignored: which replicas megatron-core would have the states on, and how they would come there.
    """
    group = part.data_parallel_group
    found: dict[object, Any] = {}
    for number, (buffer, ranges) in enumerate(zip(part.buffers, part.gbuf_ranges, strict=True)):
        places = [place[:2] for place in buffer.param_index_map.values()]
        states = {name: Pieces(places) for name in STATES} if group.rank() == 0 else {}
        for name, bucket, mine in _shares(part, number) if not empty_data else ():
            whole = _of_bucket(bucket, states[name].tensors) if states else None
            _gather(group, bucket.grad_data.numel(), mine, whole)
        found[number] = {dtype: states for dtype in ranges}
    return found if group.rank() == 0 else None


@torch.no_grad()
def scatter_states(part: Any, loaded: Mapping[int, Mapping[str, Tensor]] | None) -> None:
    """Fill every replica's states from ``loaded``, parameter for parameter, which the first one has."""
    group, tensors = part.data_parallel_group, (tensors for _, tensors in sorted((loaded or {}).items()))
    for number, buffer in enumerate(part.buffers):
        states: dict[str, dict[int, Tensor]] = {name: {} for name in STATES}
        for start, _, _ in buffer.param_index_map.values() if loaded else ():
            for name, tensor in next(tensors).items():
                states[name][start] = tensor.flatten()
        for name, bucket, mine in _shares(part, number):
            _scatter(group, bucket.grad_data.numel(), mine, _of_bucket(bucket, states[name]) if loaded else None)


def _shares(part: Any, number: int) -> Iterator[tuple[str, Any, list[Piece]]]:
    """Of a buffer, every state of every bucket: what this replica has of it."""
    [of_buckets] = part.gbuf_ranges[number].values()
    for bucket, of_bucket in zip(part.buffers[number].buckets, of_buckets, strict=True):
        for name in STATES:
            pieces = [
                (at["gbuf_local"].start, part._get_main_param_and_optimizer_states(parameter)[name].view(-1))
                for parameter, at in of_bucket["param_map"].items()
            ]
            yield name, bucket, sorted(pieces, key=itemgetter(0))


def _of_bucket(bucket: Any, tensors: Mapping[int, Tensor]) -> list[Piece]:
    """The pieces of a whole buffer, by their places in a bucket."""
    return [(start - bucket.offset, tensor) for start, tensor in sorted(tensors.items(), key=itemgetter(0))]


def _gather(group: dist.ProcessGroup, size: int, mine: list[Piece], whole: list[Piece] | None) -> None:
    """Fill ``whole``, of ``size`` elements, on the first replica from the equal shares that all replicas have."""
    for places, sent, received in _windows(group, size):
        for piece, values in _overlaps(mine, places[0], sent):
            values.copy_(piece)
        if group.size() > 1:
            dist.gather(sent, received, dist.get_process_group_ranks(group)[0], group)
        for place, window in zip(places, received or (), strict=False):
            for piece, values in _overlaps(whole or [], place, window):
                piece.copy_(values)


def _scatter(group: dist.ProcessGroup, size: int, mine: list[Piece], whole: list[Piece] | None) -> None:
    """Fill the equal shares of all replicas from ``whole``, of ``size`` elements, which the first one has."""
    for places, received, sent in _windows(group, size):
        for place, window in zip(places, sent or (), strict=False):
            for piece, values in _overlaps(whole or [], place, window):
                values.copy_(piece)
        if group.size() > 1:
            dist.scatter(received, sent, dist.get_process_group_ranks(group)[0], group)
        for piece, values in _overlaps(mine, places[0], received):
            piece.copy_(values)


def _windows(group: dist.ProcessGroup, size: int) -> Iterator[tuple[list[int], Tensor, list[Tensor] | None]]:
    """For some elements of a share at a time: where they are in all shares, room for them, and on the first replica
    for those of all.

    Alone, a replica has nothing to send: states in host memory need not come to the GPU.
    """
    replicas = group.size()
    share = size // replicas
    most = min(share, max(1, ELEMENTS_PER_EXCHANGE // replicas))
    device = torch.cuda.current_device() if replicas > 1 else "cpu"
    mine = torch.empty(most, dtype=torch.float32, device=device)
    everyones = [mine]
    if replicas > 1 and group.rank() == 0:
        everyones = [torch.empty_like(mine) for _ in range(replicas)]
    for start in range(0, share, most):
        here = slice(min(most, share - start))
        places = [rank * share + start for rank in range(replicas)]
        yield places, mine[here], [one[here] for one in everyones] if group.rank() == 0 else None


def _overlaps(pieces: list[Piece], start: int, window: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What pieces, in their order, and a window that begins at ``start`` have in common, as parts of both."""
    stop = start + len(window)
    first = max(0, bisect_right(pieces, start, key=itemgetter(0)) - 1)
    for index in range(first, len(pieces)):
        begin, tensor = pieces[index]
        if begin >= stop:
            return
        low, high = max(begin, start), min(begin + len(tensor), stop)
        if low < high:
            yield tensor[low - begin : high - begin], window[low - start : high - start]
