# SPDX-License-Identifier: Apache-2.0
"""What all objectives promise, and the table that names them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.objectives import OBJECTIVES, REFERENCE_FREE, bind_objective
from nemo_mcpo.records import ObjectiveInputs
from tests.unit.objectives.batches import random_inputs

# Every hyper-parameter that some objective has; bind_objective hands each one its own.
PARAMS = {"beta": 0.1}
every_objective = pytest.mark.parametrize("name", sorted(OBJECTIVES))


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(name, dtype):
    outputs = bind_objective(name, PARAMS)(random_inputs(5, 4, dtype))
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
        return bind_objective(name, PARAMS)(dataclasses.replace(inputs, policy_logps=policy_logps)).loss

    assert torch.autograd.gradcheck(loss, inputs.policy_logps)


@every_objective
def test_columns_not_valid_change_nothing_whatever_stands_there(name):
    clean = random_inputs(3, 3, torch.float64)
    padded = ObjectiveInputs(
        policy_logps=torch.nn.functional.pad(clean.policy_logps.detach(), (0, 2), value=math.nan).requires_grad_(),
        ref_logps=torch.nn.functional.pad(clean.ref_logps, (0, 2), value=math.inf),
        lengths=torch.nn.functional.pad(clean.lengths, (0, 2)),
        valid=torch.nn.functional.pad(clean.valid, (0, 2)),
    )
    outputs = [bind_objective(name, PARAMS)(inputs) for inputs in (clean, padded)]
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
def test_padding_row_has_loss_and_gradient_zero(name, garbage):
    logps = torch.full((1, 3), garbage, requires_grad=True)
    none = torch.zeros(1, 3, dtype=torch.bool)
    inputs = ObjectiveInputs(policy_logps=logps, ref_logps=torch.zeros(1, 3), lengths=none.long(), valid=none)
    outputs = bind_objective(name, PARAMS)(inputs)
    outputs.loss.sum().backward()
    assert outputs.loss.item() == 0
    assert torch.equal(logps.grad, torch.zeros(1, 3))
    assert all(value.isnan().all() for value in outputs.metrics.values())


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nats", [1e4, -1e4])
def test_extreme_rewards(name, dtype, nats):
    """Beta times a reward of ±1e4 in every column, and in the preferred one alone."""
    beta = 0.01
    rewards = torch.tensor([[nats, nats, nats], [nats, 0, 0], [0, nats, 0], [nats, -nats, 0]], dtype=dtype) / beta
    inputs = dataclasses.replace(
        random_inputs(4, 3, dtype), policy_logps=rewards.requires_grad_(), ref_logps=torch.zeros_like(rewards)
    )
    loss = bind_objective(name, {"beta": beta})(inputs).loss
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
        bind_objective(name, PARAMS)(shuffled).loss, bind_objective(name, PARAMS)(inputs).loss, rtol=1e-14, atol=0
    )


@every_objective
def test_reference_free_means_that_the_reference_is_not_read(name):
    inputs = random_inputs(3, 3, torch.float64)
    without = dataclasses.replace(inputs, ref_logps=None)
    if name in REFERENCE_FREE:
        assert torch.equal(bind_objective(name, PARAMS)(without).loss, bind_objective(name, PARAMS)(inputs).loss)
    else:
        with pytest.raises(TypeError):
            bind_objective(name, PARAMS)(without)


def test_bind_objective_hands_over_what_the_signature_declares():
    inputs = random_inputs(3, 3, torch.float64)
    params = {"beta": 0.3, "gamma": 1.0}
    assert torch.equal(bind_objective("mcpo", params)(inputs).loss, OBJECTIVES["mcpo"](inputs, beta=0.3).loss)
    assert torch.equal(bind_objective("sft", params)(inputs).loss, OBJECTIVES["sft"](inputs).loss)


def test_bind_objective_refuses():
    with pytest.raises(ConfigError, match=r"model.mcpo.objective: unknown.*got ppo, expected one of dpo, mcpo, sft"):
        bind_objective("ppo", PARAMS)
    with pytest.raises(ConfigError, match=r"model.mcpo.beta: objective mcpo needs"):
        bind_objective("mcpo", {})
