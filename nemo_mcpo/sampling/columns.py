# SPDX-License-Identifier: Apache-2.0
"""What goes into and comes out of every sampler: a table of log-weights, and a table of drawn column numbers.

A drawn table is ``[B, M]``; slots that cannot be filled hold -1 and stand at the end of their row.

>>> order = torch.tensor([[2, 1, 0]])
>>> first_columns(order, valid=torch.tensor([[False, True, True]]), num_negatives=3)
tensor([[ 2,  1, -1]])
"""

from __future__ import annotations

import torch

from nemo_mcpo.errors import ConfigError

# A weight of exactly 0 (log-weight -inf) in a valid column: below every other weight, yet above a column not valid.
LOG_ZERO = -1e300


def finite_log_weights(log_weights: torch.Tensor) -> torch.Tensor:
    """The log-weights as finite float64 on the CPU, so that a draw depends on neither device nor dtype."""
    return log_weights.detach().to(device="cpu", dtype=torch.float64).clamp_min(LOG_ZERO)


def first_columns(order: torch.Tensor, valid: torch.Tensor, num_negatives: int) -> torch.Tensor:
    """The first M of ``order`` (``[B, L]``: column numbers, all valid ones before the others); -1 beyond the valid."""
    missing = max(0, num_negatives - order.shape[-1])
    columns_BM = torch.nn.functional.pad(order, (0, missing), value=-1)[:, :num_negatives]
    filled_BM = torch.arange(num_negatives) < valid.sum(dim=-1, keepdim=True)
    return columns_BM.masked_fill(~filled_BM, -1)


def check_num_negatives(num_negatives: int) -> None:
    """Refuse a negative number of negatives; 0 is a draw of nothing."""
    if num_negatives < 0:
        raise ConfigError(
            "a draw cannot have fewer than 0 negatives",
            where="model.mcpo.num_negatives",
            got=num_negatives,
            expected="0 or more",
            fix="set it to 1 (the paper's choice) or more",
        )
