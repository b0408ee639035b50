# SPDX-License-Identifier: Apache-2.0
"""Tensors of the host on their way to a GPU, without the host waiting for it.

A copy from ordinary memory waits until the GPU has caught up with everything launched before; a copy from pinned
memory is queued like a kernel. torch gives a pinned buffer to the next user only after the copies out of it are done:
https://docs.pytorch.org/docs/stable/notes/cuda.html#use-pinned-memory-buffers
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes; where a tensor may begin in a buffer, for kernels that load this many at once."""


def on_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The tensors on ``device``; those that are not there yet travel in one buffer and one copy."""
    if device.type != "cuda":
        return [tensor.to(device) for tensor in tensors]
    waiting = [tensor for tensor in tensors if not tensor.is_cuda]
    arrived = iter(unpacked(sent(packed(waiting, pinned=True), device), waiting))
    return [tensor if tensor.is_cuda else next(arrived) for tensor in tensors]


def sent(pinned: Tensor, device: torch.device) -> Tensor:
    """A tensor of pinned memory on ``device``, which is also where it may be already."""
    if pinned.device == device:
        return pinned
    return torch.empty(pinned.shape, dtype=pinned.dtype, device=device).copy_(pinned, non_blocking=True)


def packed(tensors: Sequence[Tensor], *, pinned: bool) -> Tensor:
    """One buffer of bytes with the contents of all tensors."""
    sizes = _sizes(tensors)
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=pinned)
    for place, tensor in zip(unpacked(buffer, tensors), tensors, strict=True):
        place.copy_(tensor)
    return buffer


def unpacked(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of a buffer, with the types and shapes of the tensors that were packed."""
    pieces = buffer.split(_sizes(like))
    return [
        piece[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for piece, tensor in zip(pieces, like, strict=True)
    ]


def _sizes(tensors: Sequence[Tensor]) -> list[int]:
    """Bytes of each tensor in a buffer."""
    return [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors]
