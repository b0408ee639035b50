# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch

from nemo_mcpo.sampling import effective_sample_size, entropy, kernel_log_weights

INF = math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_weights_are_the_formula(dtype):
    rewards = torch.tensor([[1.0, -2.0, 0.5], [10.0, 20.0, 30.0]], dtype=dtype)
    log_weights = kernel_log_weights(rewards, beta=0.1, valid=torch.ones(2, 3, dtype=torch.bool))
    expected = 0.1 * rewards - (0.1 * rewards).exp().sum(-1, keepdim=True).log()
    assert log_weights.dtype == dtype
    torch.testing.assert_close(log_weights, expected)


def test_invalid_columns_have_weight_zero_whatever_their_reward():
    rewards = torch.tensor([[math.nan, 1.0, 2.0, INF]])
    valid = torch.tensor([[False, True, True, False]])
    total = math.log(math.exp(1.0) + math.exp(2.0))
    torch.testing.assert_close(
        kernel_log_weights(rewards, 1.0, valid), torch.tensor([[-INF, 1.0 - total, 2.0 - total, -INF]])
    )


def test_zero_rewards_give_the_uniform_kernel():
    valid = torch.tensor([[False, True, True, True, True, True]])
    log_weights = kernel_log_weights(torch.zeros(1, 6), 0.01, valid)
    assert torch.equal(log_weights[:, 1:], torch.full((1, 5), -math.log(5)))
    torch.testing.assert_close(effective_sample_size(log_weights), torch.tensor([5.0]))
    torch.testing.assert_close(entropy(log_weights), torch.tensor([math.log(5)]))


@pytest.mark.parametrize("nats", [1e6, -1e6])
@pytest.mark.parametrize("beta", [0.01, 1.0])
def test_extreme_rewards(nats, beta):
    rewards = torch.tensor([[nats, 0.0, nats]])
    log_weights = kernel_log_weights(rewards, beta, torch.ones(1, 3, dtype=torch.bool))
    assert log_weights.isfinite().all()
    torch.testing.assert_close(log_weights.exp().sum(-1), torch.ones(1))
    torch.testing.assert_close(log_weights[0, 0] - log_weights[0, 1], torch.tensor(beta * nats))


def test_rewards_beyond_float32_after_scaling():
    rewards = torch.tensor([[3e38, -3e38]])
    log_weights = kernel_log_weights(rewards, 10.0, torch.ones(1, 2, dtype=torch.bool))
    assert torch.equal(log_weights.exp(), torch.tensor([[1.0, 0.0]]))


def test_row_without_a_valid_column():
    valid = torch.tensor([[False, False], [True, False]])
    log_weights = kernel_log_weights(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 1.0, valid)
    assert torch.equal(log_weights, torch.tensor([[-INF, -INF], [0.0, -INF]]))
    assert torch.equal(effective_sample_size(log_weights), torch.tensor([0.0, 1.0]))
    assert torch.equal(entropy(log_weights), torch.tensor([0.0, 0.0]))


def test_effective_sample_size_and_entropy_are_the_formulas():
    weights = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    expected_entropy = torch.tensor([0.5 * math.log(2) + 2 * 0.25 * math.log(4)], dtype=torch.float64)
    torch.testing.assert_close(effective_sample_size(weights.log()), 1 / weights.square().sum(-1))
    torch.testing.assert_close(entropy(weights.log()), expected_entropy)


def test_no_gradient():
    rewards = torch.zeros(1, 2, requires_grad=True)
    assert not kernel_log_weights(rewards, 1.0, torch.ones(1, 2, dtype=torch.bool)).requires_grad
