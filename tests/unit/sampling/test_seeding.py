# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nemo_mcpo.sampling import SAMPLERS, draw_for_prompts, draw_generator, draw_seed, draw_subset, kernel_log_weights
from nemo_mcpo.sampling.draws import uniform_noise
from tests.unit.sampling.calls import every_sampler, table
from tests.unit.sampling.frequencies import assert_frequencies, plackett_luce

RUN_SEED, EPOCH = 1234, 1


def prompts(ids: Sequence[int], run_seed: int = RUN_SEED, epoch: int = EPOCH) -> dict[str, Any]:
    """The arguments that identify each row's prompt, all in one epoch."""
    return {"run_seed": run_seed, "epochs": [epoch] * len(ids), "prompt_ids": ids}


def test_seed_is_stable_and_fits_63_bits():
    assert draw_seed(1234, 0, 42) == 6938466454506046716
    assert all(0 <= draw_seed(seed, 0, 2**63 + seed) < 2**63 for seed in range(1000))


def test_run_epoch_and_prompt_each_change_the_seed():
    seeds = {draw_seed(*numbers) for numbers in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, -1))}
    assert len(seeds) == 5
    assert draw_seed(1, 23, 4) != draw_seed(12, 3, 4) != draw_seed(1, 2, 34)


def test_generators_are_independent_of_each_other():
    one, two = draw_generator(1, 0, 5), draw_generator(1, 0, 5)
    torch.rand(3, generator=two)
    assert one.initial_seed() == two.initial_seed()
    assert not torch.equal(one.get_state(), two.get_state())


def test_subsets_are_uniform_and_differ_by_visit():
    found = [draw_subset(2, 4, run_seed=RUN_SEED, epoch=n % 3, prompt_id=n // 3) for n in range(30_000)]
    assert_frequencies(torch.tensor(found), dict.fromkeys(itertools.combinations(range(4), 2), 1 / 6))
    assert draw_subset(4, 4, run_seed=1, epoch=0, prompt_id=0) == [0, 1, 2, 3]


@every_sampler
def test_padding_columns_do_not_change_a_draw(name, params):
    log_weights, valid = table(512, 6)
    ids = list(range(512))
    draw = draw_for_prompts(SAMPLERS[name], log_weights, valid, 2, **prompts(ids), **params)
    for width in (1, 3, 30):
        wide = torch.nn.functional.pad(log_weights, (0, width), value=-torch.inf)
        wide_valid = torch.nn.functional.pad(valid, (0, width), value=False)
        padded = draw_for_prompts(SAMPLERS[name], wide, wide_valid, 2, **prompts(ids), **params)
        assert torch.equal(padded, draw)


@every_sampler
def test_padded_rewards_do_not_change_a_draw(name, params):
    rewards = torch.randn(512, 6, generator=torch.Generator().manual_seed(1))
    draws = []
    for width in (0, 1, 11):
        wide = torch.nn.functional.pad(rewards, (0, width), value=7.0)
        valid = torch.arange(6 + width).expand(512, -1) < 6
        log_weights = kernel_log_weights(wide, 1.0, valid)
        draws.append(draw_for_prompts(SAMPLERS[name], log_weights, valid, 2, **prompts(range(512)), **params))
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


@every_sampler
def test_batch_composition_does_not_change_a_draw(name, params):
    log_weights, valid = table(60, 6)
    ids = [2**62 + 7 * row for row in range(60)]
    whole = draw_for_prompts(SAMPLERS[name], log_weights, valid, 2, **prompts(ids), **params)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(9))
    for rows in (*order.split(7), *torch.arange(60).split(1)):
        part_ids = [ids[row] for row in rows]
        part = draw_for_prompts(SAMPLERS[name], log_weights[rows], valid[rows], 2, **prompts(part_ids), **params)
        assert torch.equal(part, whole[rows])


def test_frequencies_over_prompts():
    num_prompts = 20_000
    log_weights = torch.tensor([[0.1, 0.2, 0.7]]).log().expand(num_prompts, -1)
    valid = torch.ones_like(log_weights, dtype=torch.bool)
    columns = draw_for_prompts(SAMPLERS["mc_kernel"], log_weights, valid, 2, **prompts(range(num_prompts)))
    assert_frequencies(columns, plackett_luce({0: 0.1, 1: 0.2, 2: 0.7}, 2))


def test_a_batch_may_span_two_epochs():
    log_weights, valid = table(4, 6)
    both = {"run_seed": RUN_SEED, "epochs": [0, 0, 1, 1], "prompt_ids": [7, 8, 7, 8]}
    whole = draw_for_prompts(SAMPLERS["mc_kernel"], log_weights, valid, 2, **both)
    for rows, epoch in ((slice(0, 2), 0), (slice(2, 4), 1)):
        part = draw_for_prompts(
            SAMPLERS["mc_kernel"], log_weights[rows], valid[rows], 2, **prompts([7, 8], epoch=epoch)
        )
        assert torch.equal(part, whole[rows])


def test_epochs_and_run_seeds_draw_anew():
    log_weights, valid = table(512, 6)
    draws = [
        draw_for_prompts(SAMPLERS["random"], log_weights, valid, 1, **prompts(range(512), run_seed, epoch))
        for run_seed in (1, 2)
        for epoch in (0, 1)
    ]
    for one in range(4):
        for two in range(one):
            assert (draws[one] != draws[two]).float().mean() > 0.5


class Operations(TorchDispatchMode):
    """Counts torch operations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "params"), [("mc_kernel", {}), ("mc_kernel", {"chain_candidates": 2})])
def test_only_the_noise_is_drawn_prompt_by_prompt(name, params):
    """Everything else is done for all prompts at once."""
    others = []
    for number in (64, 1024):
        valid = torch.ones(number, 8, dtype=torch.bool)
        with Operations() as noise:
            uniform_noise([torch.Generator() for _ in range(number)], number, 8, depth=6)
        with Operations() as operations:
            draw_for_prompts(SAMPLERS[name], torch.zeros(number, 8), valid, 3, **prompts(range(number)), **params)
        assert number <= noise.count <= 2 * number + 2  # torch.rand of one prompt is two operations
        others.append(operations.count - noise.count)
    assert others[0] == others[1] > 0
