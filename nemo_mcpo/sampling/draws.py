# SPDX-License-Identifier: Apache-2.0
r"""What all samplers share: log-weights in, random numbers, and the table of drawn columns out.

.. math:: G = -\log(-\log U), \qquad \arg\max_i (\log w_i + G_i) \sim \mathrm{Categorical}(w)

A row's random numbers are generated column by column, so padding a row on the right does not change the numbers of
its other columns. With one generator per row, they do not depend on the other rows either. A table of drawn columns is
``[B, M]``; slots that cannot be filled hold -1 and come last in their row.

>>> one, two = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
>>> narrow = uniform_noise([one], num_rows=1, num_columns=2, depth=3)
>>> wide = uniform_noise([two], num_rows=1, num_columns=5, depth=3)
>>> torch.equal(narrow, wide[:, :2])
True
>>> first_columns(torch.tensor([[2, 1, 0]]), valid=torch.tensor([[False, True, True]]), num_negatives=3)
tensor([[ 2,  1, -1]])
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nemo_mcpo.errors import ConfigError

# One CPU generator for the whole table, or one per row.
Generators = torch.Generator | Sequence[torch.Generator]

# Stands for the log of a weight of exactly 0 in a valid column: below every other weight, above every invalid column.
LOG_ZERO = -1e300


def finite_log_weights(log_weights: torch.Tensor) -> torch.Tensor:
    """Return the log-weights as finite float64 on the CPU, so that a draw depends on neither device nor dtype."""
    return log_weights.detach().to(device="cpu", dtype=torch.float64).clamp_min(LOG_ZERO)


def uniform_noise(generator: Generators, num_rows: int, num_columns: int, depth: int) -> torch.Tensor:
    """Return uniform numbers in [0, 1), float64 ``[num_rows, num_columns, depth]``, on the CPU."""
    if isinstance(generator, torch.Generator):
        return torch.rand(num_rows, num_columns, depth, generator=generator, dtype=torch.float64)
    if len(generator) != num_rows:
        raise ValueError(f"expected one generator per row: got {len(generator)} generators for {num_rows} rows")
    noise_BLD = torch.empty(num_rows, num_columns, depth, dtype=torch.float64)
    for row, row_generator in zip(noise_BLD, generator, strict=True):
        torch.rand(num_columns, depth, generator=row_generator, out=row)
    return noise_BLD


def to_gumbel(uniform: torch.Tensor) -> torch.Tensor:
    """Return standard Gumbel numbers, given uniform ones; finite, because 0 counts as the smallest positive number."""
    return -(-uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log()).log()


def first_columns(order: torch.Tensor, valid: torch.Tensor, num_negatives: int) -> torch.Tensor:
    """Return the first M columns of ``order``, ``[B, M]``, with -1 after the last valid one.

    Args:
        order: ``[B, L]``, column numbers, all valid ones before the others.
        valid: ``[B, L]`` bool.
        num_negatives: M; it may exceed L.
    """
    missing = max(0, num_negatives - order.shape[-1])
    columns_BM = torch.nn.functional.pad(order, (0, missing), value=-1)[:, :num_negatives]
    filled_BM = torch.arange(num_negatives) < valid.sum(dim=-1, keepdim=True)
    return columns_BM.masked_fill(~filled_BM, -1)


def check_num_negatives(num_negatives: int) -> None:
    """Raise ConfigError if the number of negatives is below 0; 0 draws nothing."""
    if num_negatives < 0:
        raise ConfigError(
            "the number of negatives is below 0",
            where="model.mcpo.num_negatives",
            got=num_negatives,
            expected="0 or more",
            fix="set it to 1 (the paper's choice) or more",
        )
