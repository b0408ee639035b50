# SPDX-License-Identifier: Apache-2.0
"""Workloads for benchmarks: trees of given shapes, and a model and a trainer to run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from megatron.core import parallel_state

from nemo_mcpo.algorithms.mcpo import MCPOTrainer
from nemo_mcpo.algorithms.negatives import ReferencedTrees
from nemo_mcpo.config import RunConfig, check_architecture
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.models.huggingface.tiny import SIZES
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel, model_config
from nemo_mcpo.models.pretrained import open_pretrained
from nemo_mcpo.objectives.dpo import dpo
from nemo_mcpo.planning.cost_model import StepCost
from nemo_mcpo.records import PreferenceBatch, PromptTree


@dataclass(frozen=True, slots=True)
class Shape:
    """Tokens per prompt and per completion."""

    prompt: int
    completion: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Parse a shape from the command line.

        >>> Shape.parse("250x121")
        Shape(prompt=250, completion=121)
        """
        prompt, separator, completion = text.partition("x")
        if not (separator and prompt.isdigit() and completion.isdigit() and int(prompt) and int(completion)):
            expected = "PROMPTxCOMPLETION in tokens, such as 250x250"
            raise ConfigError("not a shape", where="--shape", got=text, expected=expected)
        return cls(int(prompt), int(completion))


class MemoryTrees(list[PromptTree]):
    """Trees in memory, in place of a prepared dataset."""

    def source(self, index: int) -> str:
        """Return a description of a tree's origin."""
        return f"synthetic:{index}"


def synthetic_trees(shape: Shape, num_prompts: int, num_completions: int, vocab_size: int, seed: int) -> MemoryTrees:
    """Return trees of one shape with random tokens."""
    random = np.random.default_rng(seed)

    def tokens(count: int) -> np.ndarray:
        return random.integers(0, vocab_size, count).astype(np.int32)

    return MemoryTrees(
        PromptTree(index, index, tokens(shape.prompt), tuple(tokens(shape.completion) for _ in range(num_completions)))
        for index in range(num_prompts)
    )


def mean_lengths(trees: Sequence[PromptTree]) -> dict[str, float]:
    """Return the mean tokens per prompt and per completion, under their keys in reports."""
    completions = [len(completion) for tree in trees for completion in tree.completions]
    return {
        "prompt_length": sum(len(tree.prompt_tokens) for tree in trees) / len(trees),
        "completion_length": sum(completions) / len(completions),
    }


def build_model(config: RunConfig, size: str | None) -> MegatronGPTMCPOModel:
    """Build a model that can train, from ``pretrained_checkpoint`` or with random weights of a named size."""
    if size is None:
        pretrained = open_pretrained(config.pretrained_checkpoint.restore_from_path, config.model.data.cache_dir)
        check_architecture(config, pretrained.architecture)
        model = MegatronGPTMCPOModel(model_config(config, pretrained.architecture))
        model.load_pretrained(pretrained)
    else:
        check_architecture(config, SIZES[size])
        model = MegatronGPTMCPOModel(model_config(config, SIZES[size]))
        _fill_at_random(model, seed=config.model.seed)
    model.setup_training(config, num_steps=1_000_000)
    return model


def build_trainer(config: RunConfig, model: MegatronGPTMCPOModel, trees: Sequence[PromptTree]) -> MCPOTrainer:
    """Build a trainer whose steps take the next trees of its shuffled stream, with reference log-probs of 0."""
    return MCPOTrainer(
        config,
        model,
        ReferencedTrees(trees, None),  # type: ignore[arg-type]  # a list in place of a prepared dataset
        validation=None,
        last_step=1_000_000,
        checkpoints=None,  # type: ignore[arg-type]  # steps run one by one, without saving or logging
        log=None,  # type: ignore[arg-type]
        identity={},
    )


def train_step(trainer: MCPOTrainer) -> dict[str, float]:
    """Run the trainer's next step."""
    return trainer.train_single_step(trainer.next_step())


def dpo_step(
    config: RunConfig,
    model: MegatronGPTMCPOModel,
    batch: PreferenceBatch,
    share_prompts: bool,
    num_prompts: int | None = None,
) -> None:
    """Run one optimizer step of DPO on this replica's batch; ``num_prompts`` counts the prompts of all replicas."""
    model.prepare_for_training_step()
    objective = partial(dpo, beta=config.model.mcpo.beta)
    model.get_loss_and_metrics(batch, objective, share_prompts=share_prompts)
    model.finish_training_step(num_prompts or len(batch.trees))


def step_cost(model: MegatronGPTMCPOModel) -> StepCost:
    """Return the cost model of this model's steps."""
    return StepCost(
        model.architecture,
        recompute=model.layout.recompute,
        reuse=model.recording is not None,
        replays_attention=not torch.cuda.is_available(),
    )


def _fill_at_random(model: MegatronGPTMCPOModel, seed: int) -> None:
    """Initialize weights as for pretraining, equal on all ranks that hold the same parameter."""
    shard = parallel_state.get_tensor_model_parallel_rank()
    for chunk in model.chunks:
        for number, parameter in enumerate(chunk.parameters()):
            sharded = getattr(parameter, "tensor_model_parallel", False)
            generator = torch.Generator(parameter.device).manual_seed(seed + 1000 * number + (shard if sharded else 0))
            if parameter.dim() == 1:
                parameter.data.fill_(1.0)
            else:
                parameter.data.normal_(std=0.02, generator=generator)
