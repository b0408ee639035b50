# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nemo_mcpo.models.norm import RMSNorm


def config(sequence_parallel: bool, dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    return SimpleNamespace(sequence_parallel=sequence_parallel, params_dtype=dtype)


def test_formula():
    norm = RMSNorm(config(sequence_parallel=False), hidden_size=4, eps=1e-3)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("sequence_parallel", [True, False])
def test_its_gradient_is_summed_over_sequence_parallel_ranks(sequence_parallel):
    norm = RMSNorm(config(sequence_parallel=sequence_parallel), hidden_size=4)
    assert norm.weight.sequence_parallel is sequence_parallel


def test_its_weight_has_the_dtype_of_the_other_parameters():
    assert RMSNorm(config(sequence_parallel=False, dtype=torch.bfloat16), hidden_size=4).weight.dtype == torch.bfloat16
