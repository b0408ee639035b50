# SPDX-License-Identifier: Apache-2.0
"""Small models on one process: megatron-core chunks in float64, and models ready to train."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from benchmarks.parity import transformers_log_probs
from nemo_mcpo.algorithms.negatives import padded_table, prune
from nemo_mcpo.models.forward_step import Objective
from nemo_mcpo.models.gpt import ParallelLayout, TreeGPTModel, build_gpt
from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.models.huggingface.weights import load_weights
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel, model_config
from nemo_mcpo.models.optimizer import finish_gradients
from nemo_mcpo.models.pretrained import open_pretrained
from nemo_mcpo.objectives import OBJECTIVES
from nemo_mcpo.records import PromptTree
from nemo_mcpo.trees.packing import build_row
from tests.support.configs import checked
from tests.support.trees import place, preference_batch, sequences

BETA = 0.5
MCPO: Objective = functools.partial(OBJECTIVES["mcpo"], beta=BETA)


def float64_gpt(directory: Path, recompute: str = "none") -> TreeGPTModel:
    """Return the model in a Hugging Face directory as one megatron-core chunk that computes in float64."""
    architecture = read_architecture(directory)
    chunks = build_gpt(architecture, ParallelLayout(recompute=recompute))
    load_weights(directory, chunks, architecture)
    return chunks[0].double()


def packed_logps(model: TreeGPTModel, trees: list[PromptTree]) -> list[torch.Tensor]:
    """Return the log-probs ``[K]`` of each tree, from one row with all of them, with gradient."""
    logps = model(build_row(place(trees), sum(tree.num_tokens for tree in trees)))
    return list(logps.split([len(tree.completions) for tree in trees]))


def separate_logps(model: TreeGPTModel, trees: list[PromptTree]) -> list[torch.Tensor]:
    """Return the same from separate sequences, one for each completion with its prompt."""
    return [torch.cat([packed_logps(model, [one])[0] for one in sequences(tree)]) for tree in trees]


def small_model(directory: Path, **changes: object) -> MegatronGPTMCPOModel:
    """Return the NeMo model of a Hugging Face directory; ``changes`` are keys with ``__`` for dots."""
    config = checked(changes)
    pretrained = open_pretrained(str(directory), cache_dir=str(directory))
    model = MegatronGPTMCPOModel(model_config(config, pretrained.architecture))
    model.load_pretrained(pretrained)
    return model


def trainable_model(directory: Path, num_steps: int = 10, **changes: object) -> MegatronGPTMCPOModel:
    """Return the same with an optimizer and a schedule."""
    model = small_model(directory, **changes)
    config = checked(changes)
    model.setup_training(config, num_steps)
    return model


def train(model: MegatronGPTMCPOModel, trees: Sequence[PromptTree], steps: int) -> list[tuple[list[float], float]]:
    """Return the losses and the gradient norm of each update in several updates on the same trees."""
    found = []
    for _ in range(steps):
        model.prepare_for_training_step()
        loss, _ = model.get_loss_and_metrics(preference_batch(trees), MCPO)
        _, grad_norm = model.finish_training_step(len(trees))
        found.append((loss.tolist(), grad_norm))
    return found


def parameters_of(model: MegatronGPTMCPOModel) -> dict[str, torch.Tensor]:
    """Return detached copies of the parameters by name."""
    return {name: value.detach().clone() for name, value in model.chunks[0].named_parameters()}


def transformers_logps(directory: Path, trees: Sequence[PromptTree]) -> list[list[float]]:
    """Return the log-prob of every completion in every tree, in nats, by transformers in float32 on a CPU."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return [list(transformers_log_probs(model, tree)) for tree in trees]


def one_step(
    directory: Path, trees: Sequence[PromptTree], columns_BM: torch.Tensor, **changes: object
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Take a step as the trainer does, with these columns drawn; return candidate log-probs, losses and gradients."""
    model = trainable_model(directory, **changes)
    model.prepare_for_training_step()
    widest = max(len(tree.completions) for tree in trees)
    scores_BK, losses_B = torch.zeros(len(trees), widest), torch.zeros(len(trees))
    for part in model.parts(trees):
        mine = [trees[row] for row in part]
        scored = model.score(mine, first_column=1)
        table = scored.logps_bK[:, 1:].cpu()
        scores_BK[part, : table.shape[1]] = table
        references = padded_table([[-20.0] * len(tree.completions) for tree in mine])
        loss_b, _ = model.get_loss_and_metrics(prune(mine, columns_BM[part], references), MCPO, scored)
        losses_B[part] = loss_b.cpu()
    finish_gradients(model.wrapped, len(trees))
    return scores_BK, losses_B, {name: p.main_grad.clone() for name, p in model.chunks[0].named_parameters()}
