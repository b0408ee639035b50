# SPDX-License-Identifier: Apache-2.0
"""Copies tensors from the host to a GPU without making the host wait.

A copy from pageable memory waits until the GPU has finished everything launched before; a copy from pinned memory is
queued like a GPU kernel. torch reuses a pinned buffer only after all copies from it are done:
https://docs.pytorch.org/docs/stable/notes/cuda.html#use-pinned-memory-buffers
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes; offsets of tensors in a buffer are multiples of this, for GPU kernels that load this many bytes at once."""


def on_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return the tensors on ``device``; those that are not there yet are sent in one buffer with one copy."""
    if device.type != "cuda":
        return [tensor.to(device) for tensor in tensors]
    waiting = [tensor for tensor in tensors if not tensor.is_cuda]
    arrived = iter(unpacked(sent(packed(waiting, pinned=True), device), waiting))
    return [tensor if tensor.is_cuda else next(arrived) for tensor in tensors]


def sent(pinned: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on ``device``: itself if it is there, else a queued copy from its pinned memory."""
    if pinned.device == device:
        return pinned
    return torch.empty(pinned.shape, dtype=pinned.dtype, device=device).copy_(pinned, non_blocking=True)


def packed(tensors: Sequence[Tensor], *, pinned: bool) -> Tensor:
    """Return one buffer of bytes with the content of all tensors."""
    sizes = _sizes(tensors)
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=pinned)
    for place, tensor in zip(unpacked(buffer, tensors), tensors, strict=True):
        place.copy_(tensor)
    return buffer


def unpacked(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return views of a buffer, with the dtypes and shapes of the tensors that were packed."""
    pieces = buffer.split(_sizes(like))
    return [
        piece[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for piece, tensor in zip(pieces, like, strict=True)
    ]


def _sizes(tensors: Sequence[Tensor]) -> list[int]:
    """Return the bytes that each tensor occupies in a buffer."""
    return [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors]
