# SPDX-License-Identifier: Apache-2.0
r"""Sampler ``given``: the data's own rejected responses, in the data's own order.

.. math:: z_m = \text{the } m\text{-th valid column}

Paper: arXiv 2502.04567, section 2.1; with M = 1 and a file of chosen and rejected responses, this is DPO as published.

>>> log_weights, valid = torch.zeros(1, 4), torch.tensor([[False, True, False, True]])
>>> draw_given(log_weights, valid, 3, torch.Generator())
tensor([[ 1,  3, -1]])
"""

from __future__ import annotations

import torch

from nemo_mcpo.sampling.draws import Generators, check_num_negatives, first_columns
from nemo_mcpo.variant import Need, variant


@variant(Need.ORDER)
def draw_given(
    log_weights: torch.Tensor, valid: torch.Tensor, num_negatives: int, generator: Generators
) -> torch.Tensor:
    """Return the first M valid columns, ``[B, M]``; ``generator`` and the values of ``log_weights`` are not used."""
    check_num_negatives(num_negatives)
    valid_BL = valid.cpu()
    order_BL = valid_BL.byte().argsort(dim=-1, descending=True, stable=True)
    return first_columns(order_BL, valid_BL, num_negatives).to(log_weights.device)
