# SPDX-License-Identifier: Apache-2.0
r"""What scoring c of a prompt's L candidates costs in statistics, exactly, for the rewards of a run's checkpoints.

The full kernel draws candidate j with probability :math:`w_j`. With ``scored_candidates: c``, a subset S is uniform:

.. math:: q_j = \mathbb{E}_S\!\left[ \frac{w_j\, 1[j \in S]}{\sum_{i \in S} w_i} \right], \qquad
          \nabla \log Z = \beta \sum_j w_j \nabla r_j, \qquad
          \hat g = \beta \nabla r_z,\ z \sim q

The expectation is a sum over all subsets. Bias and variance of :math:`\hat g`, one drawn negative, are those of the
gradient in the weights of the model, from the inner products :math:`\nabla r_i \cdot \nabla r_j`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_mcpo.algorithms.negatives import keep_all
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.models.checkpoint_files import saved_step, whole_checkpoints
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel
from nemo_mcpo.models.pretrained import open_pretrained
from nemo_mcpo.records import ObjectiveInputs, ObjectiveOutputs, PromptTree

BETAS = (0.01, 0.1, 1.0)


def measure_subsets(
    model: MegatronGPTMCPOModel, trees: Sequence[PromptTree], run: Path, cache_dir: str
) -> list[dict[str, float]]:
    """Return one report per checkpoint of ``run``, beta and c; ``model`` has the initial weights. One process."""
    if dist.get_world_size() > 1:  # a rank has only its share of a gradient
        raise ConfigError("subsets runs in one process", where="torchrun", got=dist.get_world_size(), fix="use python")
    checkpoints = whole_checkpoints(run)
    if not checkpoints:
        raise ConfigError("no checkpoint found", where="--run", got=run, fix="give the log directory of a run")
    trees = [tree for tree in trees if len(tree.completions) > 2]
    reference_BK = model.log_probs(trees)
    reports = []
    for checkpoint in checkpoints:
        model.load_pretrained(open_pretrained(str(checkpoint), cache_dir))
        rewards_BK = (model.log_probs(trees) - reference_BK).double().cpu()
        rewards = [row[1 : len(tree.completions)] for row, tree in zip(rewards_BK, trees, strict=True)]
        products = [inner_products(model, tree) for tree in trees]
        for beta in BETAS:
            for size in range(1, max(map(len, rewards)) + 1):
                rows = [price(beta * r_L, size, g_LL) for r_L, g_LL in zip(rewards, products, strict=True)]
                means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
                reports.append({"step": saved_step(checkpoint), "beta": beta, "scored": size, **means})
    return reports


def price(energies_L: Tensor, size: int, products_LL: Tensor) -> dict[str, float]:
    """Return what drawing from subsets of one prompt's candidates costs.

    Args:
        energies_L: β r, float64.
        size: c.
        products_LL: inner products of the candidates' gradients.

    Returns:
        Total variation to the full kernel. With one negative, bias of the gradient as a share of the exact gradient's
        norm, and variance as a share of its square.
    """
    full_L, subset_L = energies_L.softmax(0), subset_kernel(energies_L, size)
    off_L = subset_L - full_L
    return {
        "total_variation": off_L.abs().sum().item() / 2,
        "bias": (_square(off_L, products_LL) / _square(full_L, products_LL)).sqrt().item(),
        "variance": (_variance(subset_L, products_LL) / _square(full_L, products_LL)).item(),
    }


def subset_kernel(energies_L: Tensor, size: int) -> Tensor:
    """Return the probability of each candidate, averaged over all subsets of ``size`` candidates.

    >>> subset_kernel(torch.tensor([0.0, 0.0, 1.0]), 3), subset_kernel(torch.tensor([0.0, 5.0, 1.0]), 1)
    (tensor([0.2119, 0.2119, 0.5761]), tensor([0.3333, 0.3333, 0.3333]))
    """
    subsets = torch.tensor(list(itertools.combinations(range(len(energies_L)), min(size, len(energies_L)))))
    weights = energies_L[subsets].softmax(1)
    return torch.zeros_like(energies_L).index_add_(0, subsets.flatten(), weights.flatten()) / len(subsets)


def _square(weights_L: Tensor, products_LL: Tensor) -> Tensor:
    """The squared norm of the weighted sum of the gradients."""
    return weights_L @ products_LL @ weights_L


def _variance(weights_L: Tensor, products_LL: Tensor) -> Tensor:
    return weights_L @ products_LL.diagonal() - _square(weights_L, products_LL)


def inner_products(model: MegatronGPTMCPOModel, tree: PromptTree) -> Tensor:
    """Return the inner products of the gradients of the candidates' log-probs, float64 ``[L, L]``."""
    batch = keep_all([tree], torch.zeros(1, len(tree.completions)))
    gradients = []
    for column in range(1, len(tree.completions)):

        def log_prob(inputs: ObjectiveInputs, column: int = column) -> ObjectiveOutputs:
            return ObjectiveOutputs(inputs.policy_logps[:, column], {})

        model.prepare_for_training_step()
        model.get_loss_and_metrics(batch, log_prob)
        values = [weight.main_grad.flatten() for chunk in model.wrapped for weight in chunk.parameters()]
        gradients.append(torch.cat(values).clone())
    gradients_LG = torch.stack(gradients)
    return (gradients_LG @ gradients_LG.T).double().cpu()


def table(reports: Sequence[dict[str, float]]) -> str:
    """Format the reports for people."""
    lines = [f"{'step':>6}{'beta':>6}{'c':>4}{'total variation':>17}{'bias':>8}{'variance':>10}"]
    lines += [
        f"{one['step']:>6.0f}{one['beta']:>6g}{one['scored']:>4.0f}{one['total_variation']:>17.4f}{one['bias']:>8.4f}"
        f"{one['variance']:>10.3f}"
        for one in reports
    ]
    return "\n".join(lines)
