# SPDX-License-Identifier: Apache-2.0
r"""Sampler ``mc_kernel``: hard negatives, drawn in proportion to the kernel weights.

.. math:: z \sim \mathrm{Categorical}(w), \qquad w_i \propto \exp(\beta r_i)

Paper: arXiv 2502.04567, Algorithm 1 and section 3.1. A single draw is exact: the argmax of log-weights plus Gumbel
noise. The paper leaves M > 1 open; we take the M largest, that is, we draw from the same categorical M times without
replacement (Plackett-Luce), so that no completion appears twice in one loss. ``replacement=True`` makes M independent
draws. With ``chain_candidates``, the chain of ``sampling/chain.py`` replaces the exact draw.

>>> log_weights = torch.tensor([[-math.inf, 0.25, 0.75]]).log()
>>> valid = torch.tensor([[False, True, True]])
>>> generator = torch.Generator().manual_seed(0)
>>> draws = draw_kernel(log_weights.expand(100_000, 3), valid.expand(100_000, 3), 1, generator)
>>> (draws == 2).sum().item()  # of 100,000; the expected share is 3/4
75080
>>> draw_kernel(log_weights, valid, 3, generator)
tensor([[ 2,  1, -1]])
"""

from __future__ import annotations

import math

import torch
from pydantic import PositiveInt

from nemo_mcpo.sampling.chain import check_chain, draw_chains
from nemo_mcpo.sampling.draws import (
    Generators,
    check_num_negatives,
    finite_log_weights,
    first_columns,
    to_gumbel,
    uniform_noise,
)
from nemo_mcpo.variant import Need, variant


@variant(Need.SCORING)
def draw_kernel(
    log_weights: torch.Tensor,
    valid: torch.Tensor,
    num_negatives: int,
    generator: Generators,
    *,
    replacement: bool = False,
    chain_steps: PositiveInt = 1,
    chain_candidates: PositiveInt | None = None,
) -> torch.Tensor:
    """Draw column numbers ``[B, M]`` by weight; -1 in slots that cannot be filled.

    Args:
        log_weights: ``[B, L]``, not necessarily normalized.
        valid: ``[B, L]`` bool, the columns that may be returned.
        replacement: draw each slot from all valid columns, so that a column may be drawn more than once.
        chain_steps: steps of the chain, which starts at the preferred completion.
        chain_candidates: fresh columns per step of the chain; None draws exactly, from all columns.
    """
    check_num_negatives(num_negatives)
    check_chain(chain_steps, chain_candidates)
    if chain_candidates is not None:
        return draw_chains(
            log_weights,
            valid,
            num_negatives,
            generator,
            replacement=replacement,
            chain_steps=chain_steps,
            chain_candidates=chain_candidates,
        )
    log_weights_BL, valid_BL = finite_log_weights(log_weights), valid.cpu()
    num_rows, num_columns = log_weights_BL.shape
    depth = num_negatives if replacement else 1
    gumbel_BLD = to_gumbel(uniform_noise(generator, num_rows, num_columns, depth))
    keys_BLD = (log_weights_BL[..., None] + gumbel_BLD).masked_fill(~valid_BL[..., None], -math.inf)
    if replacement:
        columns_BM = keys_BLD.argmax(dim=1).masked_fill(~valid_BL.any(dim=-1, keepdim=True), -1)
    else:
        columns_BM = first_columns(keys_BLD[..., 0].argsort(dim=-1, descending=True), valid_BL, num_negatives)
    return columns_BM.to(log_weights.device)
