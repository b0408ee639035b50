# SPDX-License-Identifier: Apache-2.0
"""Properties of all samplers, and their table."""

from __future__ import annotations

import math

import pytest
import torch

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.sampling import SAMPLERS, bind_sampler, draw_for_prompts, kernel_log_weights
from tests.unit.sampling.calls import every_sampler, table


@every_sampler
def test_draws_are_valid_columns_and_unfilled_slots_come_last(name, params):
    log_weights, valid = table(64, 6)
    columns = SAMPLERS[name](log_weights, valid, 8, torch.Generator().manual_seed(0), **params)
    assert columns.dtype == torch.long
    assert columns.shape == (64, 8)
    for row, row_valid in zip(columns.tolist(), valid, strict=True):
        drawn = [column for column in row if column != -1]
        num_valid = int(row_valid.sum())
        assert row == drawn + [-1] * (8 - len(drawn))
        assert all(row_valid[column] for column in drawn)
        if params.get("replacement"):
            assert len(drawn) == (8 if num_valid else 0)
        else:
            assert len(drawn) == len(set(drawn)) == num_valid


@every_sampler
def test_row_without_a_valid_column(name, params):
    valid = torch.tensor([[False] * 3, [False, True, False]])
    log_weights = kernel_log_weights(torch.zeros(2, 3), 1.0, valid)
    columns = SAMPLERS[name](log_weights, valid, 1, torch.Generator(), **params)
    assert columns.tolist() == [[-1], [1]]


@every_sampler
def test_preferred_completion_alone(name, params):
    for valid, expected in ((torch.tensor([[False]]), -1), (torch.tensor([[True]]), 0)):
        log_weights = kernel_log_weights(torch.zeros(1, 1), 1.0, valid)
        assert SAMPLERS[name](log_weights, valid, 1, torch.Generator(), **params).tolist() == [[expected]]


@every_sampler
def test_no_negatives(name, params):
    log_weights, valid = table(4, 6)
    assert SAMPLERS[name](log_weights, valid, 0, torch.Generator(), **params).shape == (4, 0)
    with pytest.raises(ConfigError) as caught:
        SAMPLERS[name](log_weights, valid, -1, torch.Generator(), **params)
    assert (caught.value.where, caught.value.got) == ("model.mcpo.num_negatives", -1)
    assert caught.value.fix


@every_sampler
def test_same_generator_state_gives_the_same_draw_and_leaves_the_global_one_alone(name, params):
    log_weights, valid = table(64, 6)
    before = torch.get_rng_state()
    one, two = (SAMPLERS[name](log_weights, valid, 2, torch.Generator().manual_seed(3), **params) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)


@every_sampler
def test_dtype_of_equal_values_does_not_matter(name, params):
    log_weights, valid = table(256, 6)
    draws = [
        SAMPLERS[name](weights, valid, 2, torch.Generator().manual_seed(3), **params)
        for weights in (log_weights, log_weights.double())
    ]
    assert torch.equal(*draws)


@every_sampler
def test_dtype_of_rewards_does_not_matter(name, params):
    seeds = {"run_seed": 1, "epochs": [0] * 256, "prompt_ids": range(256)}
    draws = [
        draw_for_prompts(SAMPLERS[name], *table(256, 6, dtype), 2, **seeds, **params)
        for dtype in (torch.float32, torch.float64)
    ]
    assert torch.equal(*draws)


@every_sampler
def test_weight_of_exactly_zero_is_drawn_last(name, params):
    valid = torch.ones(1, 3, dtype=torch.bool)
    log_weights = torch.tensor([[0.0, -math.inf, -math.inf]])
    columns = SAMPLERS[name](log_weights, valid, 3, torch.Generator(), **params)
    assert ((columns >= 0) & (columns < 3)).all()


def test_unknown_parameter_is_not_swallowed():
    log_weights, valid = table(1, 3)
    with pytest.raises(TypeError, match="chain_steps"):
        SAMPLERS["random"](log_weights, valid, 1, torch.Generator(), chain_steps=2)


def test_bind_sampler():
    log_weights, valid = table(64, 6)
    config = {"replacement": True, "chain_steps": 1, "chain_candidates": None}
    bound = bind_sampler("random", {}, config)(log_weights, valid, 2, torch.Generator().manual_seed(1))
    direct = SAMPLERS["random"](log_weights, valid, 2, torch.Generator().manual_seed(1), replacement=True)
    assert torch.equal(bound, direct)


@pytest.mark.parametrize(
    ("name", "given", "shared", "where"),
    [
        ("best", {}, {}, "model.mcpo.sampler"),
        ("max", {}, {"chain_steps": 3}, "model.mcpo.chain_steps"),
        ("max", {"chain_steps": 3}, {}, "model.mcpo.sampler.chain_steps"),
        ("max", {}, {"temperature": 1.0}, "model.mcpo.temperature"),
        ("mc_kernel", {}, {"chain_steps": 0}, "model.mcpo.sampler.chain_steps"),
    ],
)
def test_bind_sampler_refuses(name, given, shared, where):
    with pytest.raises(ConfigError) as caught:
        bind_sampler(name, given, shared)
    assert caught.value.where == where
