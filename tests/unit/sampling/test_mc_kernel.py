# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch

from nemo_mcpo.sampling import SAMPLERS, kernel_log_weights
from tests.unit.sampling.frequencies import NUM_DRAWS, assert_frequencies, independent, plackett_luce, repeat

REWARDS = [3.0, 0.5, -1.0, 0.0, 1.2]
VALID = [False, True, True, False, True]
BETA = 0.7


def weights() -> dict[int, float]:
    return {column: math.exp(BETA * REWARDS[column]) for column in range(5) if VALID[column]}


def draws(num_negatives: int, **params) -> torch.Tensor:
    valid = repeat(VALID)
    log_weights = kernel_log_weights(repeat(REWARDS), BETA, valid)
    return SAMPLERS["mc_kernel"](log_weights, valid, num_negatives, torch.Generator().manual_seed(11), **params)


@pytest.mark.parametrize("num_negatives", [1, 2, 3])
def test_frequencies_without_replacement(num_negatives):
    assert_frequencies(draws(num_negatives), plackett_luce(weights(), num_negatives))


@pytest.mark.parametrize("num_negatives", [1, 2, 3])
def test_frequencies_with_replacement(num_negatives):
    assert_frequencies(draws(num_negatives, replacement=True), independent(weights(), num_negatives))


def test_preferred_completion_is_drawn_if_the_caller_marks_it_valid():
    valid = repeat([True, True, True])
    log_weights = kernel_log_weights(repeat([1.0, 0.0, -1.0]), 1.0, valid)
    columns = SAMPLERS["mc_kernel"](log_weights, valid, 1, torch.Generator().manual_seed(2))
    assert_frequencies(columns, plackett_luce({0: math.e, 1: 1.0, 2: 1 / math.e}, 1))


@pytest.mark.parametrize("num_negatives", [1, 2])
def test_zero_rewards_are_drawn_uniformly(num_negatives):
    valid = repeat([False, True, True, True, True, True])
    log_weights = kernel_log_weights(repeat([0.0] * 6), 0.01, valid)
    columns = SAMPLERS["mc_kernel"](log_weights, valid, num_negatives, torch.Generator().manual_seed(3))
    assert_frequencies(columns, plackett_luce(dict.fromkeys(range(1, 6), 1.0), num_negatives))


def test_equal_rewards_share_their_probability():
    valid = repeat([True] * 3)
    log_weights = kernel_log_weights(repeat([2.0, 2.0, 0.0]), 1.0, valid)
    columns = SAMPLERS["mc_kernel"](log_weights, valid, 1, torch.Generator().manual_seed(4))
    assert_frequencies(columns, plackett_luce({0: math.exp(2), 1: math.exp(2), 2: 1.0}, 1))


@pytest.mark.parametrize("nats", [1e6, -1e6])
def test_extreme_rewards(nats):
    valid = repeat([False, True, True, True])
    log_weights = kernel_log_weights(repeat([0.0, nats, 0.0, nats]), 1.0, valid)
    columns = SAMPLERS["mc_kernel"](log_weights, valid, 3, torch.Generator().manual_seed(5))
    expected = {(1, 3, 2): 0.5, (3, 1, 2): 0.5} if nats > 0 else {(2, 1, 3): 0.5, (2, 3, 1): 0.5}
    assert_frequencies(columns, expected)


def test_one_candidate():
    valid = repeat([False, True])
    log_weights = kernel_log_weights(repeat([0.0, -5.0]), 1.0, valid)
    assert (SAMPLERS["mc_kernel"](log_weights, valid, 1, torch.Generator()) == 1).all()


def test_generator_per_row_gives_the_same_frequencies():
    num_draws = NUM_DRAWS // 5
    valid = repeat(VALID, num_draws)
    log_weights = kernel_log_weights(repeat(REWARDS, num_draws), BETA, valid)
    generators = [torch.Generator().manual_seed(seed) for seed in range(num_draws)]
    assert_frequencies(SAMPLERS["mc_kernel"](log_weights, valid, 2, generators), plackett_luce(weights(), 2))


def test_wrong_number_of_generators():
    with pytest.raises(ValueError, match="1 generators for 2 rows"):
        SAMPLERS["mc_kernel"](torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), 1, [torch.Generator()])
