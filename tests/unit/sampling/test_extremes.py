# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from nemo_mcpo.sampling import SAMPLERS, kernel_log_weights
from tests.unit.sampling.frequencies import assert_frequencies, plackett_luce, repeat


@pytest.mark.parametrize(("name", "expected"), [("max", [3, 1, 4, 2]), ("min", [2, 4, 1, 3])])
@pytest.mark.parametrize("num_negatives", [1, 2, 4])
def test_largest_and_smallest(name, expected, num_negatives):
    valid = torch.tensor([[False, True, True, True, True]])
    log_weights = kernel_log_weights(torch.tensor([[9.0, 2.0, -1e6, 1e6, 0.0]]), 1.0, valid)
    columns = SAMPLERS[name](log_weights, valid, num_negatives, torch.Generator())
    assert columns.tolist() == [expected[:num_negatives]]


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("rounding", [0.0, 1e-7])
def test_ties_are_broken_uniformly_at_random(name, rounding):
    valid = repeat([False, True, True, True])
    rewards = rounding * repeat([0.0, 1.0, -1.0, 2.0]).double()
    log_weights = kernel_log_weights(rewards, 1.0, valid)
    columns = SAMPLERS[name](log_weights, valid, 2, torch.Generator().manual_seed(29))
    assert_frequencies(columns, plackett_luce({1: 1.0, 2: 1.0, 3: 1.0}, 2))


def test_tie_below_a_clear_winner():
    valid = repeat([True, True, True])
    log_weights = kernel_log_weights(repeat([0.0, 5.0, 0.0]), 1.0, valid)
    columns = SAMPLERS["max"](log_weights, valid, 2, torch.Generator().manual_seed(31))
    assert_frequencies(columns, {(1, 0): 0.5, (1, 2): 0.5})


def test_a_difference_above_the_tolerance_decides():
    valid = repeat([True, True], 1000)
    log_weights = kernel_log_weights(repeat([0.0, 1e-5], 1000), 1.0, valid)
    assert (SAMPLERS["max"](log_weights, valid, 1, torch.Generator()) == 1).all()
    assert (SAMPLERS["min"](log_weights, valid, 1, torch.Generator()) == 0).all()
