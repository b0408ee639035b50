# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from nemo_mcpo.objectives import OBJECTIVES
from nemo_mcpo.records import ObjectiveInputs
from tests.unit.objectives.batches import from_rewards, random_inputs

BETA = 0.1


def dpo(inputs: ObjectiveInputs) -> torch.Tensor:
    return OBJECTIVES["dpo"](inputs, beta=BETA).loss


def pair_loss(margin: float) -> float:
    return -math.log(1 / (1 + math.exp(-BETA * margin)))


def test_loss_is_the_formula():
    expected = torch.tensor([pair_loss(3 - 5), pair_loss(2 - -4)], dtype=torch.float64)
    torch.testing.assert_close(dpo(from_rewards([[3.0, 5.0], [2.0, -4.0]])), expected)


def test_loss_of_several_negatives_is_the_mean_over_the_valid_pairs():
    loss = dpo(from_rewards([[3.0, 5.0, 1.0, -2.0]], [[True, True, False, True]]))
    expected = (pair_loss(3 - 5) + pair_loss(3 - -2)) / 2
    torch.testing.assert_close(loss, torch.tensor([expected], dtype=torch.float64))


def test_loss_without_negatives_is_zero_and_has_a_gradient():
    inputs = from_rewards([[2.0, 1.0]], [[True, False]])
    dpo(inputs).sum().backward()
    assert dpo(inputs).item() == 0
    assert torch.equal(inputs.policy_logps.grad, torch.zeros(1, 2, dtype=torch.float64))


def test_loss_at_equal_rewards_is_log_two_for_any_number_of_negatives():
    torch.testing.assert_close(dpo(from_rewards([[0.0] * 4])), torch.tensor([math.log(2)], dtype=torch.float64))


@pytest.mark.parametrize("name", ["dpo", "mcpo"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_equals_trl(name, dtype):
    trainer_class = pytest.importorskip("trl", reason="TRL is not installed").DPOTrainer
    if not hasattr(trainer_class, "dpo_loss"):
        pytest.skip("this version of TRL computes the loss inside a training step; 0.28 has it as a function")
    inputs = random_inputs(64, 2, dtype)
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"),
        beta=BETA,
        f_divergence_type="reverse_kl",
        f_divergence_params=None,
        label_smoothing=0.0,
        reference_free=False,
    )
    expected, chosen, rejected = trainer_class.dpo_loss(
        trainer, *inputs.policy_logps.unbind(dim=-1), *inputs.ref_logps.unbind(dim=-1)
    )
    outputs = OBJECTIVES[name](inputs, beta=BETA)
    # TRL subtracts in another order, so the two round differently.
    torch.testing.assert_close(outputs.loss, expected, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-6)
    # TRL reports beta times the reward.
    torch.testing.assert_close(BETA * outputs.metrics["rewards/chosen"], chosen.float())
    torch.testing.assert_close(BETA * outputs.metrics["rewards/rejected"], rejected.float())
    gradients = [torch.autograd.grad(loss.sum(), inputs.policy_logps)[0] for loss in (outputs.loss, expected)]
    torch.testing.assert_close(gradients[0], gradients[1])
