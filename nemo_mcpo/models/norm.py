# SPDX-License-Identifier: Apache-2.0
"""RMSNorm for megatron-core's local layers; the stock one refuses sequence parallelism."""

from __future__ import annotations

import torch

from nemo_mcpo.platform.distributed import local_device


class RMSNorm(torch.nn.RMSNorm):
    """torch's RMSNorm; its weight is marked so that megatron-core sums its gradient over sequence-parallel ranks."""

    def __init__(self, config, hidden_size: int, eps: float = 1e-5, **kwargs) -> None:
        # Like every other parameter: a norm left in float32 on the CPU would make the reference another model in bf16.
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype, device=local_device())
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
