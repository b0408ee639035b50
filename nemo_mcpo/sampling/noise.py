# SPDX-License-Identifier: Apache-2.0
r"""The random numbers that a draw consumes: uniform and Gumbel noise, in float64, on the CPU.

.. math:: G = -\log(-\log U), \qquad \arg\max_i (\log w_i + G_i) \sim \mathrm{Categorical}(w)

A row's numbers are laid out column by column, so that columns added at the right of a row leave those before them
unchanged. With one generator per row, a row's numbers do not depend on the other rows either.

>>> one, two = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
>>> narrow = uniform_noise([one], num_rows=1, num_columns=2, depth=3)
>>> wide = uniform_noise([two], num_rows=1, num_columns=5, depth=3)
>>> torch.equal(narrow, wide[:, :2])
True
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

# One CPU generator for the whole table, or one for each row.
Generators = torch.Generator | Sequence[torch.Generator]


def uniform_noise(generator: Generators, num_rows: int, num_columns: int, depth: int) -> torch.Tensor:
    """Uniform numbers in [0, 1), float64 ``[num_rows, num_columns, depth]``."""
    if isinstance(generator, torch.Generator):
        return torch.rand(num_rows, num_columns, depth, generator=generator, dtype=torch.float64)
    if len(generator) != num_rows:
        raise ValueError(f"one generator a row is needed: got {len(generator)} generators for {num_rows} rows")
    noise_BLD = torch.empty(num_rows, num_columns, depth, dtype=torch.float64)
    for row, row_generator in zip(noise_BLD, generator, strict=True):
        torch.rand(num_columns, depth, generator=row_generator, out=row)
    return noise_BLD


def to_gumbel(uniform: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel numbers from uniform ones; finite, as a uniform 0 counts as the smallest positive number."""
    return -(-uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log()).log()
