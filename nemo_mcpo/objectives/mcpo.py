# SPDX-License-Identifier: Apache-2.0
r"""Objective ``mcpo``: classify the preferred completion against its M sampled negatives.

.. math::
    L = -\beta r_0 + \log \sum_{i=0}^{M} \exp(\beta r_i)
      = \log \Bigl( 1 + \sum_{i=1}^{M} \exp(\beta (r_i - r_0)) \Bigr), \qquad
    r_i = \log \pi_\theta(y_i \mid x) - \log \pi_\mathrm{ref}(y_i \mid x)

Paper: arXiv 2502.04567, Eq. (7); M = 1 is DPO, Eq. (3). We compute the second form as a log-sum-exp: it does not
overflow, and a prompt without a valid negative has loss log 1 = 0 and gradient 0 without a special case.

>>> policy = torch.tensor([[-10.0, -12.0, -11.0]])
>>> reference = torch.tensor([[-11.0, -12.0, -12.0]])  # rewards 1, 0, 1
>>> valid = torch.tensor([[True, True, True]])
>>> inputs = ObjectiveInputs(policy_logps=policy, ref_logps=reference, lengths=policy.abs(), valid=valid)
>>> mcpo(inputs, beta=0.1).loss, torch.tensor([1 + math.exp(-0.1) + math.exp(0.0)]).log()
(tensor([1.0664]), tensor([1.0664]))
"""

from __future__ import annotations

import math

import torch
from pydantic import PositiveFloat

from nemo_mcpo.objectives.metrics import implicit_rewards, reward_metrics
from nemo_mcpo.records import ObjectiveInputs, ObjectiveOutputs
from nemo_mcpo.variant import Need, variant


@variant(Need.NEGATIVES, Need.REFERENCE)
def mcpo(inputs: ObjectiveInputs, *, beta: PositiveFloat) -> ObjectiveOutputs:
    """Return the loss ``[B]`` in nats: ``log(1 + M)`` if all rewards are equal, 0 if no negative is valid."""
    rewards_BK = implicit_rewards(inputs)
    excess_BM = beta * (rewards_BK[:, 1:] - rewards_BK[:, :1])
    excess_BM = excess_BM.masked_fill(~inputs.valid[:, 1:], -math.inf)
    loss_B = torch.cat([torch.zeros_like(rewards_BK[:, :1]), excess_BM], dim=-1).logsumexp(dim=-1)
    return ObjectiveOutputs(loss=loss_B, metrics=reward_metrics(rewards_BK, inputs.valid))
