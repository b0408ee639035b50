# SPDX-License-Identifier: Apache-2.0
"""MC-PO training: score all candidates, draw negatives with the Monte-Carlo kernel, take one optimizer step.

    r(x, y)  = log π_θ(y|x) − log π_ref(y|x)
    w_i      ∝ exp(β r(x, y_i)),  i over the candidates                    (Algorithm 1)
    L        = −β r(x, y_0) + log Σ_{i=0..M} exp(β r(x, y_i))              (Eq. 7)

Paper: arXiv 2502.04567. A draw depends on (seed, epoch, prompt id, rewards) alone, so it is the same whatever the number
of processes and the packing. The preferred answer is not scored: its reward is not needed to draw.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nemo_mcpo.algorithms.checkpointing import CheckpointManager, TrainerState
from nemo_mcpo.algorithms.progress import Progress
from nemo_mcpo.algorithms.run_log import RunLog
from nemo_mcpo.config import RunConfig
from nemo_mcpo.data.order import PromptStream
from nemo_mcpo.data.prepared import PreparedDataset
from nemo_mcpo.errors import NemoMcpoError
from nemo_mcpo.models.interface import SupportsPreferenceTraining
from nemo_mcpo.models.reference_cache import ReferenceCache
from nemo_mcpo.objectives import bind_objective
from nemo_mcpo.records import ObjectiveInputs, PreferenceBatch, PromptTree
from nemo_mcpo.sampling import bind_sampler, draw_generator, effective_sample_size, entropy, kernel_log_weights

SCORE_FREE_SAMPLERS = frozenset({"random", "given"})
"""Samplers that read no weights: with them the scoring pass is left out."""


class NotFiniteError(NemoMcpoError):
    """The loss or the gradient is NaN or infinite."""


@dataclass(frozen=True, slots=True)
class ReferencedTrees:
    """Prepared trees and their reference log-probs; without a cache (an objective that reads none) these are 0."""

    dataset: PreparedDataset
    reference: ReferenceCache | None

    def ref_logps(self, tree: PromptTree) -> np.ndarray:
        """float32 ``[K]``, nats."""
        return np.zeros(len(tree.completions), np.float32) if self.reference is None else self.reference[tree.index]


class MCPOTrainer:
    """Runs MC-PO, and every objective and sampler of the tables, on a model that takes trees in.

    Args:
        config: the checked configuration.
        model: weights loaded, optimizer built.
        train: training trees.
        validation: validation trees or None.
        num_steps: optimizer steps of the whole run.
        checkpoints, log: where state and metrics go.
        identity: what must not change when the run is resumed.
    """

    def __init__(
        self,
        config: RunConfig,
        model: SupportsPreferenceTraining,
        train: ReferencedTrees,
        validation: ReferencedTrees | None,
        num_steps: int,
        checkpoints: CheckpointManager,
        log: RunLog,
        identity: dict[str, object],
    ) -> None:
        self.config, self.model, self.train, self.validation = config, model, train, validation
        self.checkpoints, self.log, self.identity, self.num_steps = checkpoints, log, identity, num_steps
        mcpo = config.model.mcpo
        self.objective = bind_objective(mcpo.objective, mcpo.model_dump())
        sampler_params = mcpo.model_dump(include={"chain_steps", "chain_candidates", "replacement"})
        self.sampler = bind_sampler(mcpo.sampler, sampler_params)
        self.stream = PromptStream(len(train.dataset), config.model.seed, config.model.data.shuffle)
        self.step = 0
        self.consumed_prompts = 0

    def fit(self) -> None:
        """Train from the current step to the last; the log has one line a step, checkpoints as configured."""
        settings, monitor = self.config.trainer.mcpo, self.config.trainer.mcpo.monitor
        with Progress(self.num_steps, self.step) as progress:
            for batch, kernel_metrics, started in self.augment_dataloader():
                metrics = self.train_single_step(batch) | kernel_metrics
                metrics["step_seconds"] = time.perf_counter() - started
                last = self.step == self.num_steps
                if self.validation is not None and (last or _is_due(self.step, settings.val_check_interval)):
                    metrics |= self.run_validation()
                self.log.write(self.step, metrics)
                progress.update(metrics, prompts=len(batch.trees))
                if last or _is_due(self.step, settings.save_interval):
                    self.checkpoints.save(self.model, self.state_dict(metrics.get(monitor)))

    def augment_dataloader(self) -> Iterator[tuple[PreferenceBatch, dict[str, float], float]]:
        """Batches with drawn negatives, metrics of the kernel, and when the step began (``time.perf_counter``)."""
        size = self.config.model.global_batch_size
        while self.step < self.num_steps:
            started = time.perf_counter()
            places = self.stream.take(self.consumed_prompts, size)
            trees = [self.train.dataset[index] for _, index in places]
            batch, metrics = self.draw(trees, [epoch for epoch, _ in places], self.train)
            yield batch, metrics, started

    def draw(
        self, trees: list[PromptTree], epochs: list[int], source: ReferencedTrees
    ) -> tuple[PreferenceBatch, dict[str, float]]:
        """Score the candidates under the current weights and keep y0 and M drawn negatives of every prompt."""
        mcpo = self.config.model.mcpo
        if mcpo.num_negatives == 0:
            columns_BM = np.zeros((len(trees), 0), np.int64)
            return _prune(trees, columns_BM, source), {"kernel/ess": math.nan, "kernel/entropy": math.nan}
        valid_BK = _valid_columns(trees, first=0 if mcpo.include_preferred else 1)
        rewards_BK, scored = torch.zeros(valid_BK.shape), mcpo.sampler not in SCORE_FREE_SAMPLERS
        if scored:
            policy_BK = self.model.score(trees, first_column=0 if mcpo.include_preferred else 1).cpu()
            rewards_BK = policy_BK - _table([source.ref_logps(tree) for tree in trees], valid_BK.shape[1])
        log_weights = kernel_log_weights(rewards_BK, mcpo.beta, valid_BK)
        self._check_finite(torch.where(valid_BK, rewards_BK, 0.0).sum(1), trees, source, "a candidate's reward")
        seed = self.config.model.seed
        generators = [draw_generator(seed, epoch, tree.prompt_id) for epoch, tree in zip(epochs, trees, strict=True)]
        columns_BM = self.sampler(log_weights, valid_BK, mcpo.num_negatives, generators)
        return _prune(trees, columns_BM.numpy(), source), kernel_metrics(log_weights if scored else None)

    def train_single_step(self, batch: PreferenceBatch) -> dict[str, float]:
        """One optimizer step; the metrics that go into the log."""
        self.model.prepare_for_training_step()
        loss_B, metrics_B = self.model.get_loss_and_metrics(batch)
        self._check_finite(loss_B, batch.trees, self.train, "the loss")
        lr, grad_norm = self.model.finish_training_step()
        self._check_finite(torch.full((len(batch.trees),), grad_norm), batch.trees, self.train, "the gradient's norm")
        self.step += 1
        self.consumed_prompts += len(batch.trees)
        return {
            "loss": loss_B.mean().item(),
            "lr": lr,
            "grad_norm": grad_norm,
            "consumed_prompts": self.consumed_prompts,
            "tokens": sum(tree.num_tokens for tree in batch.trees),
            **{name: value.nanmean().item() for name, value in metrics_B.items()},
        }

    @torch.no_grad()
    def run_validation(self) -> dict[str, float]:
        """``val_*`` metrics over the validation data, every candidate scored; the loss is over drawn negatives.

        The draws are those of epoch 0, so that a change of ``val_loss`` is a change of the policy.
        """
        self.model.prepare_for_validation_step()
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for trees in self.validation_batches():
            for name, values_B in self._validate(trees).items():
                sums[name] = sums.get(name, 0.0) + values_B.nansum().item()
                counts[name] = counts.get(name, 0) + int((~values_B.isnan()).sum())
        self.model.finish_validation_step()
        return {f"val_{name}": sums[name] / counts[name] if counts[name] else math.nan for name in sums}

    def validation_batches(self) -> Iterator[list[PromptTree]]:
        """Batches of the global batch size in the file's order, as many as ``limit_val_batches`` says."""
        dataset, size = self.validation.dataset, self.config.model.global_batch_size
        stop = min(num_validation_prompts(self.config, len(dataset)), len(dataset))
        for start in range(0, stop, size):
            yield [dataset[index] for index in range(start, min(start + size, stop))]

    def _validate(self, trees: list[PromptTree]) -> dict[str, Tensor]:
        """Metrics ``[B]`` of one batch: rewards against every candidate, loss against drawn negatives."""
        mcpo, source = self.config.model.mcpo, self.validation
        valid_BK = _valid_columns(trees, first=0)
        policy_BK = self.model.score(trees).cpu()
        reference_BK = _table([source.ref_logps(tree) for tree in trees], valid_BK.shape[1])
        lengths_BK = _table([[len(tokens) for tokens in tree.completions] for tree in trees], valid_BK.shape[1], 1.0)
        metrics = dict(self.objective(ObjectiveInputs(policy_BK, reference_BK, lengths_BK, valid_BK)).metrics)
        drawable_BK = valid_BK.clone()
        drawable_BK[:, 0] = mcpo.include_preferred
        log_weights = kernel_log_weights(policy_BK - reference_BK, mcpo.beta, drawable_BK)
        generators = [draw_generator(self.config.model.seed, 0, tree.prompt_id) for tree in trees]
        drawn_BM = self.sampler(log_weights, drawable_BK, mcpo.num_negatives, generators)
        columns_BK = torch.cat([torch.zeros(len(trees), 1, dtype=torch.long), drawn_BM], dim=1)
        chosen = [table.gather(1, columns_BK.clamp_min(0)) for table in (policy_BK, reference_BK, lengths_BK)]
        metrics["loss"] = self.objective(ObjectiveInputs(*chosen, valid=columns_BK >= 0)).loss
        empty_B = ~drawable_BK.any(1)
        metrics["kernel/ess"] = effective_sample_size(log_weights).masked_fill(empty_B, math.nan)
        metrics["kernel/entropy"] = entropy(log_weights).masked_fill(empty_B, math.nan)
        return metrics

    def state_dict(self, monitored: float | None = None) -> TrainerState:
        """What a checkpoint stores beside weights and optimizer."""
        return TrainerState(
            step=self.step,
            consumed_prompts=self.consumed_prompts,
            seed=self.config.model.seed,
            identity=self.identity,
            schedule=self.model.schedule.state_dict(),
            monitored=monitored,
        )

    def load_state_dict(self, state: TrainerState) -> None:
        """Continue from a checkpoint's state."""
        self.step, self.consumed_prompts = state.step, state.consumed_prompts
        self.model.schedule.load_state_dict(state.schedule)

    def _check_finite(self, values_B: Tensor, trees, source: ReferencedTrees, what: str) -> None:
        bad = (~torch.isfinite(values_B)).nonzero()[:, 0].tolist()
        if bad:
            named = ", ".join(f"{trees[row].prompt_id} ({source.dataset.source(trees[row].index)})" for row in bad[:8])
            raise NotFiniteError(
                f"{what} is not finite at step {self.step + 1}",
                where=f"{len(bad)} of {len(trees)} prompts: {named}",
                got=values_B[bad[0]].item(),
                cure="lower model.optim.lr, or look at these prompts; the weights of the last checkpoint are unharmed",
            )


def kernel_metrics(log_weights: Tensor | None) -> dict[str, float]:
    """Effective sample size and entropy (nats) of the kernel, averaged over prompts that have candidates."""
    if log_weights is None:
        return {"kernel/ess": math.nan, "kernel/entropy": math.nan}
    some = log_weights[torch.isfinite(log_weights).any(1)]
    return {
        "kernel/ess": effective_sample_size(some).mean().item(),
        "kernel/entropy": entropy(some).mean().item(),
    }


def num_training_steps(config: RunConfig, num_prompts: int) -> int:
    """Whole global batches in ``max_epochs`` passes, or ``max_steps`` if that is fewer."""
    steps = config.trainer.mcpo.max_epochs * num_prompts // config.model.global_batch_size
    limit = config.trainer.mcpo.max_steps
    return steps if limit < 0 else min(limit, steps)


def num_validation_prompts(config: RunConfig, num_prompts: int) -> int:
    """``limit_val_batches`` in prompts: an integer counts global batches, a fraction is a share of the data."""
    limit = config.trainer.mcpo.limit_val_batches
    return limit * config.model.global_batch_size if isinstance(limit, int) else math.ceil(limit * num_prompts)


def _is_due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _valid_columns(trees: list[PromptTree], first: int) -> Tensor:
    """``[B, K]``, True for columns ``first`` … of each tree's own completions."""
    counts = torch.tensor([len(tree.completions) for tree in trees])
    columns = torch.arange(int(counts.max()))
    return (columns[None, :] < counts[:, None]) & (columns[None, :] >= first)


def _table(rows: list, num_columns: int, padding: float = 0.0) -> Tensor:
    """Ragged rows as float32 ``[B, num_columns]``."""
    table = torch.full((len(rows), num_columns), padding)
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.as_tensor(np.asarray(row, dtype=np.float32))
    return table


def _prune(trees: list[PromptTree], columns_BM: np.ndarray, source: ReferencedTrees) -> PreferenceBatch:
    """Trees of y0 and the drawn columns (-1 = none left to draw), with their tables."""
    pruned, references = [], []
    for tree, columns in zip(trees, columns_BM, strict=True):
        kept = [0, *(int(column) for column in columns if column >= 0)]
        completions = tuple(tree.completions[column] for column in kept)
        pruned.append(PromptTree(tree.prompt_id, tree.index, tree.prompt_tokens, completions))
        references.append(source.ref_logps(tree)[kept])
    width = 1 + columns_BM.shape[1]
    lengths = [[len(tokens) for tokens in tree.completions] for tree in pruned]
    valid = [[True] * len(tree.completions) for tree in pruned]
    return PreferenceBatch(
        trees=tuple(pruned),
        ref_logps_BK=_table(references, width),
        lengths_BK=_table(lengths, width, 1.0),
        valid_BK=_table(valid, width).bool(),
    )
