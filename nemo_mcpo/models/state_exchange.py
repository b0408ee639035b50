# SPDX-License-Identifier: Apache-2.0
"""Moves optimizer states between the replicas that share them and the first one, which handles checkpoints.

It replaces megatron-core's ``fully_reshardable`` exchange and leaves the files as they are. A few million elements are
on a GPU at a time, and only the first replica holds states in host memory, 12 bytes per parameter. megatron-core's
exchange needs 8 to 20 bytes more there, plus 12 for a copy while writing; or, over NCCL, a whole state on every GPU.

Each parameter is read at its position in the buffer's map. megatron-core drops the padding between buckets when it
gathers, and then reads next to a parameter's position; it warns of this itself ("which can lead to data corruption").
There are two buckets when two pipeline stages share an embedding.
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
"""megatron-core's names; ``param`` is the float32 weights."""

Piece = tuple[int, Tensor]
"""The offset of a flat tensor in a larger one, and the tensor."""


def exchange_in_pieces(part: Any) -> None:
    """Make a ``DistributedOptimizer`` gather and scatter its states with this module."""
    part.get_parameter_state_dp_zero = partial(gather_states, part)
    part.load_parameter_state_from_fully_reshardable = partial(scatter_states, part)


class Pieces:
    """A flat tensor in separate pieces: megatron-core slices one at a time, and copies views of larger tensors."""

    def __init__(self, places: Sequence[tuple[int, int]]) -> None:
        self.tensors = {start: torch.zeros(stop - start, dtype=torch.float32) for start, stop in places}

    def __getitem__(self, place: slice) -> Tensor:
        return self.tensors[place.start]


@torch.no_grad()
def gather_states(part: Any, *, empty_data: bool, **ignored: bool) -> dict[object, Any] | None:
    """Gather every buffer's states, float32, in the host memory of the first replica; return None on the others.

    Args:
        part: a ``DistributedOptimizer``; all of its replicas call this.
        empty_data: return zeros to read a checkpoint into, instead of the states.
        ignored: megatron-core's options for its own exchange.
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
    """Fill every replica's states from the parameters' states in ``loaded``, which only the first replica has."""
    group, tensors = part.data_parallel_group, (tensors for _, tensors in sorted((loaded or {}).items()))
    for number, buffer in enumerate(part.buffers):
        states: dict[str, dict[int, Tensor]] = {name: {} for name in STATES}
        for start, _, _ in buffer.param_index_map.values() if loaded else ():
            for name, tensor in next(tensors).items():
                states[name][start] = tensor.flatten()
        for name, bucket, mine in _shares(part, number):
            _scatter(group, bucket.grad_data.numel(), mine, _of_bucket(bucket, states[name]) if loaded else None)


def _shares(part: Any, number: int) -> Iterator[tuple[str, Any, list[Piece]]]:
    """Yield this replica's pieces of each state of each bucket of a buffer."""
    [of_buckets] = part.gbuf_ranges[number].values()
    for bucket, of_bucket in zip(part.buffers[number].buckets, of_buckets, strict=True):
        for name in STATES:
            pieces = [
                (at["gbuf_local"].start, part._get_main_param_and_optimizer_states(parameter)[name].view(-1))
                for parameter, at in of_bucket["param_map"].items()
            ]
            yield name, bucket, sorted(pieces, key=itemgetter(0))


def _of_bucket(bucket: Any, tensors: Mapping[int, Tensor]) -> list[Piece]:
    """Return a buffer's pieces with their offsets in a bucket."""
    return [(start - bucket.offset, tensor) for start, tensor in sorted(tensors.items(), key=itemgetter(0))]


def _gather(group: dist.ProcessGroup, size: int, mine: list[Piece], whole: list[Piece] | None) -> None:
    """Fill ``whole``, ``size`` elements on the first replica, from the equal shares of all replicas."""
    for places, sent, received in _windows(group, size):
        for piece, values in _overlaps(mine, places[0], sent):
            values.copy_(piece)
        if group.size() > 1:
            dist.gather(sent, received, dist.get_process_group_ranks(group)[0], group)
        for place, window in zip(places, received or (), strict=False):
            for piece, values in _overlaps(whole or [], place, window):
                piece.copy_(values)


def _scatter(group: dist.ProcessGroup, size: int, mine: list[Piece], whole: list[Piece] | None) -> None:
    """Fill the equal shares of all replicas from ``whole``, ``size`` elements on the first replica."""
    for places, received, sent in _windows(group, size):
        for place, window in zip(places, sent or (), strict=False):
            for piece, values in _overlaps(whole or [], place, window):
                values.copy_(piece)
        if group.size() > 1:
            dist.scatter(received, sent, dist.get_process_group_ranks(group)[0], group)
        for piece, values in _overlaps(mine, places[0], received):
            piece.copy_(values)


def _windows(group: dist.ProcessGroup, size: int) -> Iterator[tuple[list[int], Tensor, list[Tensor] | None]]:
    """Step through a share, a window of elements at a time.

    Yield the window's offset in every replica's share, a buffer for this replica's window and, on the first replica,
    one for each replica's. A single replica has nothing to send, so its buffer is in host memory.
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
    """Yield the overlaps of sorted pieces with a window that begins at ``start``, as slices of both."""
    stop = start + len(window)
    first = max(0, bisect_right(pieces, start, key=itemgetter(0)) - 1)
    for index in range(first, len(pieces)):
        begin, tensor = pieces[index]
        if begin >= stop:
            return
        low, high = max(begin, start), min(begin + len(tensor), stop)
        if low < high:
            yield tensor[low - begin : high - begin], window[low - start : high - start]
