# SPDX-License-Identifier: Apache-2.0
"""Validation on held-out trees: reward metrics over all candidates, loss over drawn negatives.

Draws use epoch 0 every time, so the sampler's noise does not change from one validation to the next.
"""

from __future__ import annotations

import math

import torch

from nemo_mcpo.algorithms.negatives import NegativeSampling, ReferencedTrees, draw, keep_all
from nemo_mcpo.config import RunConfig
from nemo_mcpo.models.interface import SupportsPreferenceTraining
from nemo_mcpo.records import Objective, ObjectiveInputs


def num_validation_prompts(config: RunConfig, num_prompts: int) -> int:
    """``limit_val_batches`` in prompts: an integer counts global batches, a float is a share of the data."""
    limit = config.trainer.mcpo.limit_val_batches
    wanted = limit * config.model.global_batch_size if isinstance(limit, int) else math.ceil(limit * num_prompts)
    return min(wanted, num_prompts)


@torch.no_grad()
def validate(
    model: SupportsPreferenceTraining,
    source: ReferencedTrees,
    sampling: NegativeSampling,
    objective: Objective,
    config: RunConfig,
) -> dict[str, float]:
    """The ``val_*`` metrics, each averaged over the prompts that have a value; every rank must call this."""
    model.prepare_for_validation_step()
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    size, stop = config.model.global_batch_size, num_validation_prompts(config, len(source.dataset))
    for start in range(0, stop, size):
        trees = [source.dataset[index] for index in range(start, min(start + size, stop))]
        policy_BK, reference_BK = model.log_probs(trees).cpu(), source.ref_logps_BK(trees)
        metrics = objective(ObjectiveInputs(policy_BK, *keep_all(trees, reference_BK).tables)).metrics
        has_rewards = source.reference is not None
        drawn = draw(sampling, trees, [0] * len(trees), reference_BK, policy_BK if has_rewards else None)
        policy_BD = policy_BK.gather(1, drawn.batch.ranks_BK)  # the ranks are the columns that the draw kept
        loss_B = objective(ObjectiveInputs(policy_BD, *drawn.batch.tables)).loss
        for name, values_B in {**metrics, **drawn.kernel, "loss": loss_B}.items():
            sums[name] = sums.get(name, 0.0) + values_B.nansum().item()
            counts[name] = counts.get(name, 0) + int((~values_B.isnan()).sum())
    model.finish_validation_step()
    return {f"val_{name}": sums[name] / counts[name] if counts[name] else math.nan for name in sums}
