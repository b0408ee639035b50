# SPDX-License-Identifier: Apache-2.0
r"""The implicit reward, and the metrics that objectives report about it.

.. math:: r_i = \log \pi_\theta(y_i \mid x) - \log \pi_\mathrm{ref}(y_i \mid x)

Paper: arXiv 2502.04567, Eq. (3). Rewards are reported in nats as defined, **not** multiplied by beta (TRL and other
programs report beta times this), so that runs with different beta can be compared.

An undefined metric is NaN: a prompt without a valid negative has no margin, an objective without a reference no
reward. Averages are ``nanmean``, that is, over the prompts that have a value. All four ``rewards/*`` are NaN together,
so that the average margin is the average of chosen minus the average of rejected.

>>> rewards = torch.tensor([[1.0, 0.0, 3.0], [2.0, 0.0, 0.0]])
>>> valid = torch.tensor([[True, True, True], [True, False, False]])
>>> reward_metrics(rewards, valid)["rewards/margin"]
tensor([-0.5000,     nan])
"""

from __future__ import annotations

import math

import torch

from nemo_mcpo.records import ObjectiveInputs

REWARD_METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margin", "rewards/accuracy")


def implicit_rewards(inputs: ObjectiveInputs) -> torch.Tensor:
    """Return rewards ``[B, K]`` in nats, with gradient; meaningless in invalid columns."""
    return inputs.policy_logps - inputs.ref_logps


def mean_over_valid(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``[B, M]`` over each row's valid columns, ``[B]``; a 0 with gradient if there are none."""
    return values.masked_fill(~valid, 0.0).sum(dim=-1) / valid.sum(dim=-1).clamp_min(1)


def reward_metrics(rewards: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return metrics of rewards ``[B, K]``, each float32 ``[B]`` and detached.

    - ``rewards/chosen``: reward of the preferred completion, in nats.
    - ``rewards/rejected``: mean reward of the valid negatives, in nats.
    - ``rewards/margin``: chosen minus rejected.
    - ``rewards/accuracy``: share of the valid negatives that the preferred completion beats; a tie counts one half.
    - ``negatives/count``: number of valid negatives.
    - ``negatives/none``: 1 if there are none, else 0; its average is the share of prompts without a loss.
    """
    rewards_BK = rewards.detach()
    chosen_B, negatives_BM, valid_BM = rewards_BK[:, 0], rewards_BK[:, 1:], valid[:, 1:]
    rejected_B = mean_over_valid(negatives_BM, valid_BM)
    # heaviside is 1, 1/2, or 0 for a positive, zero, or negative argument.
    wins_BM = torch.heaviside(chosen_B[:, None] - negatives_BM, chosen_B.new_full((), 0.5))
    values = (chosen_B, rejected_B, chosen_B - rejected_B, mean_over_valid(wins_BM, valid_BM))
    count_B = valid_BM.sum(dim=-1)
    metrics = dict(zip(REWARD_METRICS, (value.masked_fill(count_B == 0, math.nan) for value in values), strict=True))
    # A row without any valid column is padding, not a prompt.
    padding_B = ~valid.any(dim=-1)
    for name, value in (("negatives/count", count_B), ("negatives/none", count_B == 0)):
        metrics[name] = value.float().masked_fill(padding_B, math.nan)
    return {name: value.float() for name, value in metrics.items()}


def undefined_reward_metrics(like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the ``rewards/*`` of an objective without rewards: NaN for each row of ``like``, ``[B]``."""
    return {name: torch.full_like(like, math.nan, dtype=torch.float32).detach() for name in REWARD_METRICS}
