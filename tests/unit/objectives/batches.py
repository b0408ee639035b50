# SPDX-License-Identifier: Apache-2.0
"""Small inputs for objectives."""

from __future__ import annotations

import torch

from nemo_mcpo.records import ObjectiveInputs


def from_rewards(rewards: list[list[float]] | torch.Tensor, valid: list[list[bool]] | None = None) -> ObjectiveInputs:
    """Inputs with these rewards in float64; every reference log-prob is -50 and every length 10."""
    rewards_BK = torch.as_tensor(rewards, dtype=torch.float64)
    reference_BK = torch.full_like(rewards_BK, -50.0)
    return ObjectiveInputs(
        policy_logps=(reference_BK + rewards_BK).detach().requires_grad_(),
        ref_logps=reference_BK,
        lengths=torch.full(rewards_BK.shape, 10),
        valid=torch.ones(rewards_BK.shape, dtype=torch.bool) if valid is None else torch.tensor(valid),
    )


def random_inputs(num_prompts: int, num_completions: int, dtype: torch.dtype, scale: float = 20.0) -> ObjectiveInputs:
    """Inputs with normally distributed log-probs of standard deviation ``scale``; all columns are valid."""
    generator = torch.Generator().manual_seed(13)
    policy, reference = scale * torch.randn(2, num_prompts, num_completions, generator=generator, dtype=dtype)
    lengths = torch.randint(1, 30, (num_prompts, num_completions), generator=generator)
    valid = torch.ones(num_prompts, num_completions, dtype=torch.bool)
    return ObjectiveInputs(policy_logps=policy.requires_grad_(), ref_logps=reference, lengths=lengths, valid=valid)
