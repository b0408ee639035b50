# SPDX-License-Identifier: Apache-2.0
r"""Objective ``dpo``: the preferred completion against a rejected one.

.. math:: L = \frac{1}{M} \sum_{i=1}^{M} -\log \sigma(\beta (r_0 - r_i)), \qquad
          r_i = \log \pi_\theta(y_i \mid x) - \log \pi_\mathrm{ref}(y_i \mid x)

Paper: arXiv 2305.18290, Eq. (7); arXiv 2502.04567, Eq. (3). DPO is defined for one rejected completion (M = 1), where
this is the published loss and equals ``mcpo``. For M > 1 we take the mean over the M pairs: the loss before the first
update is then log 2 for any M, and a prompt with many completions has the same weight as one with two.

>>> import math
>>> policy = torch.tensor([[-10.0, -12.0]])
>>> reference = torch.tensor([[-11.0, -12.0]])  # rewards 1, 0
>>> valid = torch.tensor([[True, True]])
>>> inputs = ObjectiveInputs(policy_logps=policy, ref_logps=reference, lengths=policy.abs(), valid=valid)
>>> dpo(inputs, beta=0.1).loss, torch.tensor([1 + math.exp(-0.1)]).log()
(tensor([0.6444]), tensor([0.6444]))
"""

from __future__ import annotations

import torch
from pydantic import PositiveFloat

from nemo_mcpo.objectives.metrics import implicit_rewards, mean_over_valid, reward_metrics
from nemo_mcpo.records import ObjectiveInputs, ObjectiveOutputs
from nemo_mcpo.variant import Need, variant


@variant(Need.NEGATIVES, Need.REFERENCE)
def dpo(inputs: ObjectiveInputs, *, beta: PositiveFloat) -> ObjectiveOutputs:
    """Return the loss ``[B]`` in nats, the mean over a prompt's valid pairs; 0 if no rejected completion is valid."""
    rewards_BK = implicit_rewards(inputs)
    valid_BM = inputs.valid[:, 1:]
    # Masked before the logarithm too: otherwise a NaN in padding would reach the gradient as 0 * NaN.
    margins_BM = (rewards_BK[:, :1] - rewards_BK[:, 1:]).masked_fill(~valid_BM, 0.0)
    loss_B = mean_over_valid(-torch.nn.functional.logsigmoid(beta * margins_BM), valid_BM)
    return ObjectiveOutputs(loss=loss_B, metrics=reward_metrics(rewards_BK, inputs.valid))
