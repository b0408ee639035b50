# SPDX-License-Identifier: Apache-2.0
"""The gradient's norm where neither Transformer Engine nor Apex has a kernel for it: exact, and not read on the way.

megatron-core's own adds up in float32, which over millions of numbers is off by 1e-4, and by another amount for every
way to split the tensors between ranks; and it reads the norm of every tensor on the host, which waits for the GPU each
time.
"""

from __future__ import annotations

import torch
from megatron.core.optimizer import clip_grads
from megatron.core.utils import local_multi_tensor_l2_norm
from torch import Tensor


def install_exact_norm() -> None:
    """Have megatron-core clip gradients by ``exact_norm``, unless it has found a kernel."""
    if clip_grads.l2_norm_impl is local_multi_tensor_l2_norm:
        clip_grads.l2_norm_impl = exact_norm


def exact_norm(chunk_size: int, noop_flag: Tensor, tensor_lists: list[list[Tensor]], *args) -> tuple[Tensor, None]:
    """The norm of all tensors together, float32 ``[1]`` on their device; the arguments are those of Apex's kernel."""
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensors in tensor_lists for tensor in tensors]
    return torch.linalg.vector_norm(torch.stack(norms)).float().reshape(1), None
