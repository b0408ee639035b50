# SPDX-License-Identifier: Apache-2.0
r"""Samplers ``max`` and ``min``: the M candidates with the largest or smallest kernel weights.

.. math:: z_\mathrm{max} = \arg\max_i w_i, \qquad z_\mathrm{min} = \arg\min_i w_i

Paper: arXiv 2502.04567, section 5.3, for M = 1; it does not mention ties. We break ties uniformly at random: before
the first update all rewards are 0, and a fixed rule would return the same column, the data's second-best response, for
every prompt. Weights closer than ``TIE_NATS`` count as equal, because rewards before the first update are 0 only up to
float32 rounding, which differs between devices and layouts.

>>> log_weights, valid = torch.tensor([[-1.0, -3.0, -2.0]]), torch.tensor([[True, True, True]])
>>> draw_max(log_weights, valid, 2, torch.Generator())
tensor([[0, 2]])
>>> draw_min(log_weights, valid, 2, torch.Generator())
tensor([[1, 2]])
"""

from __future__ import annotations

import math

import torch

from nemo_mcpo.sampling.draws import Generators, check_num_negatives, finite_log_weights, first_columns, uniform_noise
from nemo_mcpo.variant import Need, variant

TIE_NATS = 1e-6


@variant(Need.SCORING)
def draw_max(
    log_weights: torch.Tensor, valid: torch.Tensor, num_negatives: int, generator: Generators
) -> torch.Tensor:
    """Return the M valid columns with the largest weights, largest first, ``[B, M]``; ties are broken at random."""
    columns_BM = _best_first(finite_log_weights(log_weights), valid.cpu(), num_negatives, generator)
    return columns_BM.to(log_weights.device)


@variant(Need.SCORING)
def draw_min(
    log_weights: torch.Tensor, valid: torch.Tensor, num_negatives: int, generator: Generators
) -> torch.Tensor:
    """Return the M valid columns with the smallest weights, smallest first, ``[B, M]``; ties are broken at random."""
    columns_BM = _best_first(-finite_log_weights(log_weights), valid.cpu(), num_negatives, generator)
    return columns_BM.to(log_weights.device)


def _best_first(
    values_BL: torch.Tensor, valid_BL: torch.Tensor, num_negatives: int, generator: Generators
) -> torch.Tensor:
    check_num_negatives(num_negatives)
    num_rows, num_columns = values_BL.shape
    best_B1 = values_BL.masked_fill(~valid_BL, -math.inf).amax(dim=-1, keepdim=True)
    ranks_BL = ((values_BL - best_B1) / TIE_NATS).round().masked_fill(~valid_BL, -math.inf)
    shuffled_BL = uniform_noise(generator, num_rows, num_columns, 1)[..., 0].argsort(dim=-1)
    # A stable sort keeps equal ranks in their shuffled order.
    order_BL = ranks_BL.gather(-1, shuffled_BL).argsort(dim=-1, descending=True, stable=True)
    return first_columns(shuffled_BL.gather(-1, order_BL), valid_BL, num_negatives)
