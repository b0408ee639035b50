# SPDX-License-Identifier: Apache-2.0
"""An objective that reads every input that a step offers: scores, ranks, and a statistic of the previous batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import PositiveFloat

from nemo_mcpo.objectives.metrics import implicit_rewards, mean_over_valid, reward_metrics
from nemo_mcpo.records import ObjectiveInputs, ObjectiveOutputs
from nemo_mcpo.variant import Need, Statistics, variant


def _mean_margin(known: Mapping[str, float], metrics: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
    return {"margin": metrics["rewards/margin"].double().mean().item(), "steps": known["steps"] + 1}


@variant(
    Need.NEGATIVES,
    Need.REFERENCE,
    Need.SCORES,
    Need.RANKS,
    statistics=Statistics({"margin": 0.0, "steps": 0.0}, _mean_margin),
)
def probe(inputs: ObjectiveInputs, *, beta: PositiveFloat) -> ObjectiveOutputs:
    """Weight each pair by its score gap over the negative's rank; subtract the mean margin of the previous batch."""
    assert inputs.scores is not None and inputs.ranks is not None and inputs.state is not None
    rewards_BK, valid_BM = implicit_rewards(inputs), inputs.valid[:, 1:]
    gaps_BM = ((inputs.scores[:, :1] - inputs.scores[:, 1:]) / inputs.ranks[:, 1:]).masked_fill(~valid_BM, 0.0)
    margins_BM = (rewards_BK[:, :1] - rewards_BK[:, 1:]).masked_fill(~valid_BM, 0.0) - inputs.state["margin"]
    loss_B = mean_over_valid(torch.nn.functional.softplus(-beta * margins_BM) * gaps_BM, valid_BM)
    metrics = {"probe/gap": mean_over_valid(gaps_BM, valid_BM).float(), **reward_metrics(rewards_BK, inputs.valid)}
    return ObjectiveOutputs(loss=loss_B, metrics=metrics)
