# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch

from nemo_mcpo.objectives import OBJECTIVES
from nemo_mcpo.objectives.metrics import REWARD_METRICS
from tests.unit.objectives.batches import random_inputs


def test_loss_is_the_formula():
    inputs = random_inputs(5, 3, torch.float64)
    outputs = OBJECTIVES["sft"](inputs)
    expected = -inputs.policy_logps[:, 0] / inputs.lengths[:, 0]
    torch.testing.assert_close(outputs.loss, expected)
    torch.testing.assert_close(outputs.metrics["sft/nll_per_token"], expected.detach().float())


def test_gradient_is_minus_one_over_the_length_for_the_preferred_completion_alone():
    inputs = random_inputs(5, 3, torch.float64)
    OBJECTIVES["sft"](inputs).loss.sum().backward()
    expected = torch.zeros(5, 3, dtype=torch.float64)
    expected[:, 0] = -1 / inputs.lengths[:, 0]
    torch.testing.assert_close(inputs.policy_logps.grad, expected)


def test_reward_metrics_are_nan():
    metrics = OBJECTIVES["sft"](random_inputs(5, 1, torch.float32)).metrics
    assert all(metrics[name].isnan().all() for name in REWARD_METRICS)
