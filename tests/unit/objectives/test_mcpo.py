# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch

from nemo_mcpo.objectives import OBJECTIVES
from nemo_mcpo.records import ObjectiveInputs
from tests.unit.objectives.batches import from_rewards, random_inputs

BETA = 0.1


def mcpo(inputs: ObjectiveInputs, beta: float = BETA) -> torch.Tensor:
    return OBJECTIVES["mcpo"](inputs, beta=beta).loss


def test_loss_is_the_formula():
    loss = mcpo(from_rewards([[3.0, -1.0, 2.0, 5.0]]))
    expected = -BETA * 3 + math.log(sum(math.exp(BETA * reward) for reward in (3, -1, 2, 5)))
    torch.testing.assert_close(loss, torch.tensor([expected], dtype=torch.float64))


def test_masked_negative_is_not_in_the_sum():
    loss = mcpo(from_rewards([[3.0, -1.0, 2.0, 5.0]], [[True, True, False, True]]))
    expected = -BETA * 3 + math.log(sum(math.exp(BETA * reward) for reward in (3, -1, 5)))
    torch.testing.assert_close(loss, torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("num_negatives", [1, 2, 3, 5])
@pytest.mark.parametrize("beta", [0.01, 1.0])
def test_loss_at_equal_rewards_is_the_log_of_one_plus_negatives(num_negatives, beta):
    loss = mcpo(from_rewards([[0.0] * (1 + num_negatives)]), beta)
    torch.testing.assert_close(loss, torch.tensor([math.log(1 + num_negatives)], dtype=torch.float64))


@pytest.mark.parametrize("num_columns", [1, 3])
def test_loss_without_negatives_is_zero_and_has_a_gradient(num_columns):
    inputs = from_rewards([[2.0] * num_columns], [[True] + [False] * (num_columns - 1)])
    loss = mcpo(inputs)
    loss.sum().backward()
    assert loss.item() == 0
    assert torch.equal(inputs.policy_logps.grad, torch.zeros(1, num_columns, dtype=torch.float64))


def test_extreme_rewards_approach_their_limits():
    loss = mcpo(from_rewards([[1e6, 0.0, 0.0], [0.0, 1e6, 0.0], [-1e6, 1e6, 1e6]]), beta=1.0)
    expected = torch.tensor([0.0, 1e6, 2e6 + math.log(2)], dtype=torch.float64)
    torch.testing.assert_close(loss, expected, rtol=1e-15, atol=0)


def test_gradient_agrees_with_lemma_3_2():
    """Paper, Lemma 3.2 (M = 1): -beta sigma(beta r1 - beta r0) grad(r0 - r1)."""
    inputs = random_inputs(16, 2, torch.float64)
    mcpo(inputs).sum().backward()
    rewards = (inputs.policy_logps - inputs.ref_logps).detach()
    pull = -BETA * torch.sigmoid(BETA * rewards[:, 1] - BETA * rewards[:, 0])
    torch.testing.assert_close(inputs.policy_logps.grad, torch.stack([pull, -pull], dim=-1))


def test_gradient_agrees_with_equation_8_over_the_sampled_set():
    """Paper, Eq. (8): -grad beta r0 + E_w[grad beta r], with the kernel's weights over y0 and its negatives."""
    inputs = random_inputs(16, 5, torch.float64)
    mcpo(inputs).sum().backward()
    weights = (BETA * (inputs.policy_logps - inputs.ref_logps).detach()).softmax(dim=-1)
    preferred = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(inputs.policy_logps.grad, BETA * (weights - preferred))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_negative_equals_dpo(dtype):
    inputs = random_inputs(64, 2, dtype)
    losses = [OBJECTIVES[name](inputs, beta=BETA).loss for name in ("mcpo", "dpo")]
    gradients = [torch.autograd.grad(loss.sum(), inputs.policy_logps)[0] for loss in losses]
    rounding = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(losses[0], losses[1], rtol=rounding, atol=rounding)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=16 * rounding, atol=rounding)


def test_float32_agrees_with_float64():
    wide = random_inputs(64, 4, torch.float64)
    narrow = ObjectiveInputs(wide.policy_logps.float(), wide.ref_logps.float(), wide.lengths, wide.valid)
    torch.testing.assert_close(mcpo(narrow).double(), mcpo(wide), rtol=1e-5, atol=1e-6)
