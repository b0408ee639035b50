# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import math

import pytest
import torch

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.sampling import SAMPLERS, check_chain, kernel_log_weights
from tests.unit.sampling.frequencies import Draw, assert_frequencies, plackett_luce, repeat

REWARDS = [0.4, 1.5, -1.0, 0.0, 0.8]
PREFERRED = 0


def step_probabilities(state: int, weights: dict[int, float], num_fresh: int) -> dict[int, float]:
    """One step: all subsets of the others are equally likely; one member of subset and state is picked by weight."""
    others = [column for column in weights if column != state]
    subsets = list(itertools.combinations(others, min(num_fresh, len(others))))
    probabilities = dict.fromkeys(weights, 0.0)
    for subset in subsets:
        members = [*subset, state] if state in weights else list(subset)
        total = sum(weights[column] for column in members)
        for column in members:
            probabilities[column] += weights[column] / total / len(subsets)
    return probabilities


def chain_probabilities(weights: dict[int, float], num_fresh: int, num_steps: int) -> dict[int, float]:
    states = {PREFERRED: 1.0}
    for _ in range(num_steps):
        arrivals = dict.fromkeys(weights, 0.0)
        for state, probability in states.items():
            for column, transition in step_probabilities(state, weights, num_fresh).items():
                arrivals[column] += probability * transition
        states = arrivals
    return states


def chains_probabilities(
    weights: dict[int, float], num_fresh: int, num_steps: int, num_negatives: int, replacement: bool = False
) -> dict[Draw, float]:
    draws: dict[Draw, float] = {(): 1.0}
    for _ in range(num_negatives):
        longer = {}
        for draw, probability in draws.items():
            left = {column: weight for column, weight in weights.items() if replacement or column not in draw}
            for column, transition in chain_probabilities(left, num_fresh, num_steps).items():
                longer[(*draw, column)] = probability * transition
        draws = longer
    return draws


@pytest.mark.parametrize("include_preferred", [False, True])
@pytest.mark.parametrize("num_fresh", [1, 2, 3])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize(("num_negatives", "replacement"), [(1, False), (2, False), (2, True)])
def test_frequencies(include_preferred, num_fresh, num_steps, num_negatives, replacement):
    valid = repeat([include_preferred, True, True, False, True])
    weights = {column: math.exp(REWARDS[column]) for column in range(5) if valid[0, column]}
    columns = SAMPLERS["mc_kernel"](
        kernel_log_weights(repeat(REWARDS), 1.0, valid),
        valid,
        num_negatives,
        torch.Generator().manual_seed(17),
        chain_steps=num_steps,
        chain_candidates=num_fresh,
        replacement=replacement,
    )
    expected = chains_probabilities(weights, num_fresh, num_steps, num_negatives, replacement)
    assert_frequencies(columns, {draw: p for draw, p in expected.items() if p > 0})


@pytest.mark.parametrize("num_negatives", [1, 2])
def test_whole_pool_is_the_exact_kernel_in_one_step(num_negatives):
    weights = {column: math.exp(REWARDS[column]) for column in range(1, 5)}
    chain, exact = chains_probabilities(weights, 4, 1, num_negatives), plackett_luce(weights, num_negatives)
    assert all(math.isclose(chain[draw], exact[draw]) for draw in exact)
    valid = repeat([False, True, True, True, True])
    columns = SAMPLERS["mc_kernel"](
        kernel_log_weights(repeat(REWARDS), 1.0, valid),
        valid,
        num_negatives,
        torch.Generator().manual_seed(1),
        chain_candidates=4,
    )
    assert_frequencies(columns, exact)


def test_kernel_weights_are_stationary():
    weights = {column: math.exp(REWARDS[column]) for column in range(5)}
    total = sum(weights.values())
    for num_fresh in (1, 2, 3, 4):
        transitions = {state: step_probabilities(state, weights, num_fresh) for state in weights}
        for column, weight in weights.items():
            arriving = sum(weights[state] / total * transitions[state][column] for state in weights)
            assert math.isclose(arriving, weight / total)


def test_long_chain_approaches_the_kernel():
    valid = repeat([False, True, True, True, True], 20_000)
    columns = SAMPLERS["mc_kernel"](
        kernel_log_weights(repeat(REWARDS, 20_000), 1.0, valid),
        valid,
        1,
        torch.Generator().manual_seed(1),
        chain_steps=60,
        chain_candidates=1,
    )
    assert_frequencies(columns, plackett_luce({column: math.exp(REWARDS[column]) for column in range(1, 5)}, 1))


@pytest.mark.parametrize(
    ("params", "key", "got"),
    [
        ({"chain_steps": 2}, "chain_candidates", "null"),
        ({"chain_steps": 0}, "chain_steps", 0),
        ({"chain_candidates": 0}, "chain_candidates", 0),
    ],
)
def test_refuses_settings_without_effect(params, key, got):
    with pytest.raises(ConfigError) as caught:
        SAMPLERS["mc_kernel"](torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool), 1, torch.Generator(), **params)
    assert (caught.value.where, caught.value.got) == (f"model.mcpo.{key}", got)
    assert caught.value.fix


def test_check_chain_with_a_known_number_of_candidates():
    check_chain(chain_steps=2, chain_candidates=4, num_candidates=5)
    check_chain(chain_steps=1, chain_candidates=5, num_candidates=5)
    with pytest.raises(ConfigError) as caught:
        check_chain(chain_steps=2, chain_candidates=5, num_candidates=5)
    assert (caught.value.got, caught.value.expected) == (5, "1 to 4")
