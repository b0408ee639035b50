# SPDX-License-Identifier: Apache-2.0
"""RMSNorm for megatron-core's local layers; the stock one refuses sequence parallelism."""

from __future__ import annotations

import torch


class RMSNorm(torch.nn.RMSNorm):
    """torch's RMSNorm; its weight is marked so that megatron-core sums its gradient over sequence-parallel ranks."""

    def __init__(self, config, hidden_size: int, eps: float = 1e-5, **kwargs) -> None:
        super().__init__(hidden_size, eps=eps)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
