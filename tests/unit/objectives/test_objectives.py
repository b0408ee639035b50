# SPDX-License-Identifier: Apache-2.0
"""Properties of all objectives, and their table."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.objectives import OBJECTIVES, bind_objective
from nemo_mcpo.records import ObjectiveInputs
from nemo_mcpo.variant import Need
from tests.unit.objectives.batches import random_inputs

BETA = 0.1
every_objective = pytest.mark.parametrize("name", sorted(OBJECTIVES))


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(name, dtype):
    outputs = bind_objective(name, {}, BETA)(random_inputs(5, 4, dtype))
    assert outputs.loss.shape == (5,)
    assert outputs.loss.dtype == dtype
    assert outputs.loss.requires_grad
    for value in outputs.metrics.values():
        assert (value.shape, value.dtype, value.requires_grad) == ((5,), torch.float32, False)


@every_objective
def test_gradient(name):
    inputs = random_inputs(4, 4, torch.float64)
    inputs.valid[1, 2] = inputs.valid[2, 1:] = False

    def loss(policy_logps: torch.Tensor) -> torch.Tensor:
        return bind_objective(name, {}, BETA)(dataclasses.replace(inputs, policy_logps=policy_logps)).loss

    assert torch.autograd.gradcheck(loss, inputs.policy_logps)


@every_objective
def test_values_in_invalid_columns_do_not_matter(name):
    clean = random_inputs(3, 3, torch.float64)
    padded = ObjectiveInputs(
        policy_logps=torch.nn.functional.pad(clean.policy_logps.detach(), (0, 2), value=math.nan).requires_grad_(),
        ref_logps=torch.nn.functional.pad(clean.ref_logps, (0, 2), value=math.inf),
        lengths=torch.nn.functional.pad(clean.lengths, (0, 2)),
        valid=torch.nn.functional.pad(clean.valid, (0, 2)),
    )
    outputs = [bind_objective(name, {}, BETA)(inputs) for inputs in (clean, padded)]
    assert torch.equal(outputs[0].loss, outputs[1].loss)
    for metric, value in outputs[0].metrics.items():
        torch.testing.assert_close(outputs[1].metrics[metric], value, equal_nan=True)
    gradients = [
        torch.autograd.grad(output.loss.sum(), inputs.policy_logps)[0]
        for output, inputs in zip(outputs, (clean, padded), strict=True)
    ]
    assert torch.equal(gradients[1], torch.nn.functional.pad(gradients[0], (0, 2)))


@every_objective
@pytest.mark.parametrize("garbage", [0.0, math.nan])
def test_padding_row_has_zero_loss_and_gradient(name, garbage):
    logps = torch.full((1, 3), garbage, requires_grad=True)
    none = torch.zeros(1, 3, dtype=torch.bool)
    inputs = ObjectiveInputs(policy_logps=logps, ref_logps=torch.zeros(1, 3), lengths=none.long(), valid=none)
    outputs = bind_objective(name, {}, BETA)(inputs)
    outputs.loss.sum().backward()
    assert outputs.loss.item() == 0
    assert torch.equal(logps.grad, torch.zeros(1, 3))
    assert all(value.isnan().all() for value in outputs.metrics.values())


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nats", [1e4, -1e4])
def test_extreme_rewards(name, dtype, nats):
    """Rewards of ±1e4 / beta in all columns, in the preferred one only, and in a negative."""
    beta = 0.01
    rewards = torch.tensor([[nats, nats, nats], [nats, 0, 0], [0, nats, 0], [nats, -nats, 0]], dtype=dtype) / beta
    inputs = dataclasses.replace(
        random_inputs(4, 3, dtype), policy_logps=rewards.requires_grad_(), ref_logps=torch.zeros_like(rewards)
    )
    loss = bind_objective(name, {}, beta)(inputs).loss
    loss.sum().backward()
    assert loss.isfinite().all()
    assert rewards.grad.isfinite().all()


@every_objective
def test_order_of_negatives_does_not_matter(name):
    inputs = random_inputs(6, 5, torch.float64)
    inputs.valid[0, 3] = False
    order = torch.tensor([0, 3, 1, 4, 2])
    shuffled = ObjectiveInputs(
        *(getattr(inputs, field)[:, order] for field in ("policy_logps", "ref_logps", "lengths", "valid"))
    )
    torch.testing.assert_close(
        bind_objective(name, {}, BETA)(shuffled).loss, bind_objective(name, {}, BETA)(inputs).loss, rtol=1e-14, atol=0
    )


@every_objective
def test_reference_is_read_only_if_needed(name):
    inputs = random_inputs(3, 3, torch.float64)
    without = dataclasses.replace(inputs, ref_logps=None)
    if Need.REFERENCE not in OBJECTIVES[name].needs:
        assert torch.equal(bind_objective(name, {}, BETA)(without).loss, bind_objective(name, {}, BETA)(inputs).loss)
    else:
        with pytest.raises(TypeError):
            bind_objective(name, {}, BETA)(without)


def test_own_beta_overrides_the_kernels():
    inputs = random_inputs(3, 3, torch.float64)
    expected = OBJECTIVES["mcpo"](inputs, beta=0.3).loss
    assert torch.equal(bind_objective("mcpo", {}, 0.3)(inputs).loss, expected)
    assert torch.equal(bind_objective("mcpo", {"beta": 0.3}, 0.1)(inputs).loss, expected)
    assert torch.equal(bind_objective("sft", {}, 0.3)(inputs).loss, OBJECTIVES["sft"](inputs).loss)


@pytest.mark.parametrize(
    ("name", "given", "where", "got"),
    [
        ("dpoo", {}, "model.mcpo.objective", "dpoo"),
        ("dpo", {"gamma": 1.0}, "model.mcpo.objective.gamma", 1.0),
        ("dpo", {"beta": "high"}, "model.mcpo.objective.beta", "'high'"),
        ("dpo", {"beta": 0.0}, "model.mcpo.objective.beta", "0.0"),
        ("sft", {"beta": 0.1}, "model.mcpo.objective.beta", 0.1),
    ],
)
def test_bind_objective_refuses(name, given, where, got):
    with pytest.raises(ConfigError) as caught:
        bind_objective(name, given, BETA)
    assert (caught.value.where, caught.value.got) == (where, got)
