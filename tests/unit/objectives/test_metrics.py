# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch

from nemo_mcpo.objectives import OBJECTIVES
from nemo_mcpo.objectives.metrics import reward_metrics
from tests.unit.objectives.batches import from_rewards

NAN = math.nan


@pytest.mark.parametrize("name", ["mcpo", "dpo"])
def test_metrics_are_the_formulas_in_nats(name):
    inputs = from_rewards(
        [[3.0, 5.0, 1.0, 99.0], [2.0, 2.0, 99.0, 99.0], [4.0, 99.0, 99.0, 99.0]],
        [[True, True, True, False], [True, True, False, False], [True, False, False, False]],
    )
    metrics = OBJECTIVES[name](inputs, beta=0.01).metrics
    expected = {
        "rewards/chosen": [3.0, 2.0, NAN],
        "rewards/rejected": [(5 + 1) / 2, 2.0, NAN],
        "rewards/margin": [3 - (5 + 1) / 2, 0.0, NAN],
        "rewards/accuracy": [(0 + 1) / 2, 1 / 2, NAN],
        "negatives/count": [2.0, 1.0, 0.0],
        "negatives/none": [0.0, 0.0, 1.0],
    }
    assert metrics.keys() == expected.keys()
    for metric, values in expected.items():
        torch.testing.assert_close(metrics[metric], torch.tensor(values), equal_nan=True)


def test_padding_row_has_no_metrics():
    metrics = reward_metrics(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))
    assert all(value.isnan().all() for value in metrics.values())


def test_average_margin_is_average_chosen_minus_average_rejected():
    inputs = from_rewards([[3.0, 5.0], [7.0, 0.0]], [[True, True], [True, False]])
    metrics = OBJECTIVES["mcpo"](inputs, beta=0.01).metrics
    mean = {name: values.nanmean().item() for name, values in metrics.items()}
    assert mean["rewards/margin"] == mean["rewards/chosen"] - mean["rewards/rejected"]
