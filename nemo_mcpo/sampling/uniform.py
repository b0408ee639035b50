# SPDX-License-Identifier: Apache-2.0
r"""Sampler ``random``: negatives drawn uniformly, regardless of reward (ranking noise contrastive estimation).

.. math:: z \sim \mathrm{Categorical}(1/n, \ldots, 1/n), \qquad n = \text{valid columns}

Paper: arXiv 2502.04567, Proposition 2.1, where the M draws are independent. Ours are without replacement by default,
as in ``mc_kernel``, so that the two samplers differ only in the weights.

>>> log_weights, valid = torch.tensor([[-9.0, 0.0, -9.1]]), torch.tensor([[True, True, True]])
>>> generator = torch.Generator().manual_seed(0)
>>> draws = draw_uniform(log_weights.expand(3000, 3), valid.expand(3000, 3), 1, generator)
>>> draws.flatten().bincount().tolist()
[1020, 1008, 972]
"""

from __future__ import annotations

import torch

from nemo_mcpo.sampling.draws import Generators
from nemo_mcpo.sampling.mc_kernel import draw_kernel
from nemo_mcpo.variant import variant


@variant()
def draw_uniform(
    log_weights: torch.Tensor,
    valid: torch.Tensor,
    num_negatives: int,
    generator: Generators,
    *,
    replacement: bool = False,
) -> torch.Tensor:
    """Draw column numbers ``[B, M]`` uniformly from the valid ones; the values of ``log_weights`` are not used."""
    return draw_kernel(torch.zeros_like(log_weights), valid, num_negatives, generator, replacement=replacement)
