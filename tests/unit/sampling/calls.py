# SPDX-License-Identifier: Apache-2.0
"""Every sampler with each combination of parameters to test, and a table to draw from."""

from __future__ import annotations

import pytest
import torch

from nemo_mcpo.sampling import SAMPLERS, kernel_log_weights

CALLS = [
    *((name, {}) for name in SAMPLERS),
    ("mc_kernel", {"replacement": True}),
    ("mc_kernel", {"chain_candidates": 1}),
    ("mc_kernel", {"chain_candidates": 2, "chain_steps": 3}),
    ("mc_kernel", {"chain_candidates": 1, "chain_steps": 2, "replacement": True}),
    ("random", {"replacement": True}),
]
every_sampler = pytest.mark.parametrize(("name", "params"), CALLS, ids=str)


def table(num_rows: int, num_columns: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-weights of random rewards; column 0 and a few others are invalid."""
    generator = torch.Generator().manual_seed(5)
    rewards = torch.randn(num_rows, num_columns, generator=generator)
    valid = torch.rand(num_rows, num_columns, generator=generator) > 0.2
    valid[:, 0] = False
    return kernel_log_weights(rewards.to(dtype), 1.0, valid), valid
