# SPDX-License-Identifier: Apache-2.0
r"""The Monte-Carlo kernel: the probability that each completion of a prompt is drawn as a negative, from its reward.

.. math::
    \log w_i = \beta r_i - \log \sum_{j\ \mathrm{valid}} \exp(\beta r_j), \qquad
    r_i = \log \pi_\theta(y_i \mid x) - \log \pi_\mathrm{ref}(y_i \mid x)

Paper: arXiv 2502.04567, Algorithm 1. There the sum runs over i = 0..L, including the preferred completion y0; here it
runs over the valid columns, so the caller decides whether to include y0 (column 0). The weights carry no gradient.

>>> rewards = torch.tensor([[0.0, 0.0, math.log(3.0)]])
>>> log_weights = kernel_log_weights(rewards, beta=1.0, valid=torch.tensor([[False, True, True]]))
>>> log_weights.exp()
tensor([[0.0000, 0.2500, 0.7500]])
>>> effective_sample_size(log_weights)
tensor([1.6000])
>>> entropy(log_weights)
tensor([0.5623])
"""

from __future__ import annotations

import math

import torch


def kernel_log_weights(rewards: torch.Tensor, beta: float, valid: torch.Tensor) -> torch.Tensor:
    """Return normalized log-weights ``[B, L]`` in the dtype of ``rewards``; -inf in invalid columns.

    Args:
        rewards: ``[B, L]`` in nats; values in invalid columns are ignored, including NaN.
        beta: inverse temperature of the kernel.
        valid: ``[B, L]`` bool, the columns that may be drawn; a row without any has -inf everywhere.
    """
    # Normalized in float64, so that float32 weights do not depend on the summation order, which differs by device.
    energies_BL = (beta * rewards.detach().double()).masked_fill(~valid, -math.inf)
    # log_softmax of a row of -inf is NaN, which the second mask replaces.
    return energies_BL.log_softmax(dim=-1).masked_fill(~valid, -math.inf).to(rewards.dtype)


def effective_sample_size(log_weights: torch.Tensor) -> torch.Tensor:
    """Return ``1 / sum(w^2)``, ``[B]``: 1 (one column dominates) to the number of valid columns; 0 without any."""
    sum_of_squares_B = log_weights.exp().square().sum(dim=-1)
    return torch.where(sum_of_squares_B > 0, sum_of_squares_B.reciprocal(), 0.0)


def entropy(log_weights: torch.Tensor) -> torch.Tensor:
    """Return ``-sum(w log w)`` in nats, ``[B]``: from 0 to the log of the number of valid columns; 0 without any."""
    return torch.special.entr(log_weights.exp()).sum(dim=-1)


def total_variation(log_weights: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return ``sum|w - w'| / 2``, ``[B]``: the share of single draws in which the two must differ; 0 without columns.

    >>> total_variation(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log())
    tensor([0.2500])
    """
    return (log_weights.exp() - other.exp()).abs().sum(dim=-1) / 2
