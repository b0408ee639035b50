# SPDX-License-Identifier: Apache-2.0
"""CompactAdamW against torch's AdamW, its rounding, and its states in checkpoints."""

from __future__ import annotations

import pytest
import torch
from megatron.core.optimizer import distrib_optimizer

from nemo_mcpo.models import adam
from nemo_mcpo.models.adam import CompactAdamW, round_stochastically
from nemo_mcpo.models.optimizer import optimizer_parts
from nemo_mcpo.models.sharded_state import load_sharded_state, save_sharded_state
from tests.support.small_gpt import parameters_of, train, trainable_model
from tests.support.trees import random_trees

TREES = random_trees([3, 2, 4], seed=13)
LEARNING = {"model__optim__lr": 1e-3, "model__optim__weight_decay": 0.1}
OFFLOADED = {"model__optim__cpu_offload": True}
SMALL_MOMENTS = {"model__optim__moments_dtype": "bfloat16"}
BF16 = {"trainer__precision": "bf16"}

process = pytest.mark.usefixtures("one_process")


def mean_losses(model, steps: int) -> list[float]:
    return [sum(losses) / len(losses) for losses, _ in train(model, TREES, steps)]


def continued(directory, folder, before: dict, after: dict) -> tuple:
    """Train a model, continue its checkpoint with other keys, and return the results of both over 3 steps."""
    model = trainable_model(directory, **LEARNING, **before)
    train(model, TREES, 2)
    save_sharded_state(model, folder)
    again = trainable_model(directory, **LEARNING, **after)
    load_sharded_state(again, folder)
    again.schedule.step(increment=2)
    return model, train(model, TREES, 3), again, train(again, TREES, 3)


def assert_same_weights(model, other) -> None:
    expected = parameters_of(other)
    for name, value in parameters_of(model).items():
        assert torch.equal(value, expected[name]), name


@process
@pytest.mark.parametrize("precision", [{}, BF16], ids=["float32", "bf16"])
def test_states_in_host_memory_change_no_bit(llama_directory, monkeypatch, precision):
    monkeypatch.setattr(adam, "ELEMENTS_PER_UPDATE", 1000)  # most parameters in several pieces
    plain = trainable_model(llama_directory, **LEARNING, **precision)
    offloaded = trainable_model(llama_directory, **LEARNING, **precision, **OFFLOADED)
    assert isinstance(optimizer_parts(offloaded.optimizer)[0].optimizer, CompactAdamW)
    assert train(offloaded, TREES, 4) == train(plain, TREES, 4)
    assert_same_weights(offloaded, plain)


@process
@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_gradients_are_clipped_as_by_torch(llama_directory, clip):
    changes = LEARNING | {"trainer__mcpo__gradient_clip_val": clip}
    plain, offloaded = (trainable_model(llama_directory, **changes, **more) for more in ({}, OFFLOADED))
    assert train(offloaded, TREES, 2) == train(plain, TREES, 2)
    assert_same_weights(offloaded, plain)


@process
def test_moments_in_bfloat16_learn_like_those_in_float32(llama_directory):
    exact, small = (
        mean_losses(trainable_model(llama_directory, **LEARNING, **more), 12) for more in ({}, SMALL_MOMENTS)
    )
    assert small[1] == exact[1]  # the first update is exact: the moments are rounded after it
    assert small[2] != exact[2]
    assert small == pytest.approx(exact, rel=0.02)
    assert exact[-1] < 0.5 * exact[0]


@pytest.fixture(params=["torch", "transformer_engine"])
def found_adam(request, monkeypatch) -> None:
    """With Transformer Engine's Adam, megatron-core keeps the number of updates elsewhere."""
    monkeypatch.setattr(distrib_optimizer, "HAVE_APEX_OR_TE", request.param != "torch")
    monkeypatch.setattr(distrib_optimizer, "USING_TE_OPTIMIZER", request.param != "torch")


@process
@pytest.mark.parametrize("precision", [{}, BF16], ids=["float32", "bf16"])
@pytest.mark.parametrize("compact", [OFFLOADED, SMALL_MOMENTS], ids=["offloaded", "bf16 moments"])
def test_a_loaded_run_equals_the_uninterrupted_one_bit_for_bit(
    llama_directory, tmp_path, found_adam, compact, precision
):
    keys = {**compact, **precision}
    model, following, again, found = continued(llama_directory, tmp_path, keys, keys)
    assert found == following
    assert_same_weights(again, model)


@process
@pytest.mark.parametrize(("before", "after"), [({}, OFFLOADED), (OFFLOADED, {})], ids=["to the host", "and back"])
@pytest.mark.parametrize("precision", [{}, BF16], ids=["float32", "bf16"])
def test_a_run_continues_with_its_states_elsewhere(llama_directory, tmp_path, before, after, precision):
    keys = ({**precision, **before}, {**precision, **after})
    model, following, again, found = continued(llama_directory, tmp_path, *keys)
    assert found == following
    assert_same_weights(again, model)


@process
@pytest.mark.parametrize(("before", "after"), [({}, SMALL_MOMENTS), (SMALL_MOMENTS, {})], ids=["to", "from"])
def test_a_run_continues_with_other_moments(llama_directory, tmp_path, before, after):
    _, following, _, found = continued(llama_directory, tmp_path, before, after)
    for (losses, _), (expected, _) in zip(found, following, strict=True):
        assert losses == pytest.approx(expected, rel=0.02)


def test_a_tied_embedding_is_rounded_equally_on_both_stages():
    """It is the first parameter of one optimizer and the last of the other."""

    def updated(order: int) -> dict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(5)
        tied, other = torch.randn(300, generator=random), torch.randn(77, generator=random)
        tied.decoupled_grad, other.decoupled_grad = tied.sin(), other.sin()
        group = {"params": [tied, other][::order], "lr": 0.1, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.0}
        optimizer = CompactAdamW([group], moments=torch.bfloat16, on_host=False)
        for _ in range(3):
            optimizer.step()
        return optimizer.state[tied]

    first, last = updated(1), updated(-1)
    for name, state in first.items():
        assert torch.equal(state, last[name]), name


def test_rounding_is_exact_in_the_mean():
    generator = torch.Generator().manual_seed(1)
    exact = torch.randn(16, generator=generator)
    many = torch.stack([round_stochastically(exact, generator).float() for _ in range(4000)])
    step = exact.abs() * 2**-7  # at most the distance between neighbors
    assert (many.mean(0) - exact).abs().max() <= (4 * step / 2 / 4000**0.5).max()
    assert ((many - exact).abs() <= step).all()


def test_rounding_keeps_what_bfloat16_can_hold():
    values = torch.tensor([0.0, -0.0, 1.0, -1.5, 3.0e-39, 2.0**-126, 3.0e38, float("inf"), -float("inf")])
    held = values.to(torch.bfloat16)
    assert torch.equal(round_stochastically(held.float(), torch.Generator().manual_seed(2)), held)


def test_a_second_moment_in_bfloat16_decays():
    """Rounded to nearest, it would never change."""
    weights = torch.zeros(1000)
    group = {"params": [weights], "lr": 0.0, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    optimizer = CompactAdamW([group], moments=torch.bfloat16, on_host=False)
    optimizer.state[weights]["exp_avg_sq"].fill_(1.0)
    weights.decoupled_grad = torch.zeros(1000)
    for _ in range(500):
        optimizer.step()
    assert optimizer.state[weights]["exp_avg_sq"].float().mean().item() == pytest.approx(0.999**500, rel=0.01)
