# SPDX-License-Identifier: Apache-2.0
r"""Objective ``sft``: supervised fine-tuning on the preferred completion.

.. math:: L = -\frac{1}{T_0} \log \pi_\theta(y_0 \mid x), \qquad T_0 = \text{tokens of } y_0

It trains the initial policy of arXiv 2502.04567, section 5.1. The loss is averaged over the tokens of each completion,
and prompts have equal weight as in the other objectives; it is not averaged over all tokens of a batch.

>>> import torch
>>> policy = torch.tensor([[-10.0, -12.0]])
>>> lengths, valid = torch.tensor([[5, 4]]), torch.tensor([[True, True]])
>>> sft(ObjectiveInputs(policy_logps=policy, ref_logps=policy, lengths=lengths, valid=valid)).loss
tensor([2.])
"""

from __future__ import annotations

import math

from nemo_mcpo.objectives.metrics import undefined_reward_metrics
from nemo_mcpo.records import ObjectiveInputs, ObjectiveOutputs
from nemo_mcpo.variant import variant


@variant()
def sft(inputs: ObjectiveInputs) -> ObjectiveOutputs:
    """Return the loss ``[B]`` in nats per token, 0 in a padding row; negatives and ``ref_logps`` are not used."""
    padding_B = ~inputs.valid[:, 0]
    # Completions have at least one token, but a padding row may have none: 0 / 0 would reach the gradient as NaN.
    loss_B = -inputs.policy_logps[:, 0].masked_fill(padding_B, 0.0) / inputs.lengths[:, 0].clamp_min(1)
    nll_per_token_B = loss_B.detach().float().masked_fill(padding_B, math.nan)
    metrics = {"sft/nll_per_token": nll_per_token_B, **undefined_reward_metrics(loss_B)}
    return ObjectiveOutputs(loss=loss_B, metrics=metrics)
