# SPDX-License-Identifier: Apache-2.0
"""MC-PO training: score all candidates, draw negatives with the Monte-Carlo kernel, take one optimizer step.

    r(x, y)  = log π_θ(y|x) − log π_ref(y|x)
    w_i      ∝ exp(β r(x, y_i)),  i over the candidates                    (Algorithm 1)
    L        = −β r(x, y_0) + log Σ_{i=0..M} exp(β r(x, y_i))              (Eq. 7)

Paper: arXiv 2502.04567. A draw depends on (seed, epoch, prompt id, rewards) alone, so it is the same whatever the
number of processes and the packing. The preferred answer is not scored: its reward is not needed to draw.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

import torch

from nemo_mcpo.algorithms.checkpointing import CheckpointManager, TrainerState
from nemo_mcpo.algorithms.engine_check import check_shared_prefixes
from nemo_mcpo.algorithms.negatives import NegativeSampling, ReferencedTrees, kernel_metrics, prune
from nemo_mcpo.algorithms.progress import Progress
from nemo_mcpo.algorithms.run_log import RunLog
from nemo_mcpo.algorithms.validation import validate
from nemo_mcpo.config import RunConfig
from nemo_mcpo.data.order import PromptStream
from nemo_mcpo.models.interface import SupportsPreferenceTraining
from nemo_mcpo.records import Objective, PreferenceBatch, PromptTree

DrawnBatch = tuple[PreferenceBatch, dict[str, torch.Tensor]]
"""A batch with its drawn negatives, and the kernel's metrics, each ``[B]``."""


class MCPOTrainer:
    """Runs MC-PO, and every objective and sampler of the tables, on a model that takes trees in.

    Args:
        config: the checked configuration.
        model: weights loaded, optimizer built.
        objective, sampling: the algorithm.
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
        objective: Objective,
        sampling: NegativeSampling,
        train: ReferencedTrees,
        validation: ReferencedTrees | None,
        num_steps: int,
        checkpoints: CheckpointManager,
        log: RunLog,
        identity: dict[str, object],
    ) -> None:
        self.config, self.model, self.objective, self.sampling = config, model, objective, sampling
        self.train, self.validation, self.num_steps = train, validation, num_steps
        self.checkpoints, self.log, self.identity = checkpoints, log, identity
        self.stream = PromptStream(len(train.dataset), config.model.seed, config.model.data.shuffle)
        self.step = 0
        self.consumed_prompts = 0

    def fit(self) -> None:
        """Train from the current step to the last; the log has one line a step, checkpoints as configured."""
        settings = self.config.trainer.mcpo
        if self.step < self.num_steps:
            first = self.stream.take(self.consumed_prompts, self.config.model.global_batch_size)
            trees = [self.train.dataset[index] for _, index in first]
            check_shared_prefixes(self.model, trees, self.config.trainer.precision)
        with Progress(self.num_steps, self.step) as progress:
            for parts in self.augment_dataloader():
                started = time.perf_counter()
                metrics = self.train_single_step(parts)
                metrics["step_seconds"] = time.perf_counter() - started
                last = self.step == self.num_steps
                if last or _is_due(self.step, settings.val_check_interval):
                    metrics |= self.run_validation()
                self.log.write(self.step, metrics)
                progress.update(metrics, prompts=self.config.model.global_batch_size)
                if last or _is_due(self.step, settings.save_interval):
                    self.checkpoints.save(self.model, self.state_dict(metrics))

    def augment_dataloader(self) -> Iterator[Iterator[DrawnBatch]]:
        """The steps that are left: each its parts, which are scored and drawn when they are asked for."""
        while self.step < self.num_steps:
            places = self.stream.take(self.consumed_prompts, self.config.model.global_batch_size)
            trees = [self.train.dataset[index] for _, index in places]
            epochs = [epoch for epoch, _ in places]
            parts = self.model.parts(trees) if self.sampling.reads_weights else [range(len(trees))]
            yield (self.draw([trees[row] for row in part], [epochs[row] for row in part]) for part in parts)

    def draw(self, trees: list[PromptTree], epochs: list[int]) -> DrawnBatch:
        """Score the candidates under the current weights; keep y0 and M drawn negatives of every prompt."""
        sampling, reference_BK = self.sampling, self.train.ref_logps_BK(trees)
        rewards_BK = torch.zeros_like(reference_BK)
        if sampling.reads_weights:
            rewards_BK = self.model.score_candidates(trees, sampling.first_column).cpu() - reference_BK
            rewards_BK[:, : sampling.first_column] = 0.0
            self.train.check_finite(rewards_BK.sum(1), trees, f"a reward at step {self.step + 1}")
        log_weights_BK = sampling.log_weights_BK(rewards_BK, trees)
        columns_BM = sampling.columns_BM(log_weights_BK, trees, epochs)
        kernel = kernel_metrics(log_weights_BK)
        if not sampling.reads_weights:  # nothing was scored, so the kernel is not known
            kernel = {name: torch.full_like(values_B, math.nan) for name, values_B in kernel.items()}
        return prune(trees, columns_BM, reference_BK), kernel

    def train_single_step(self, parts: Iterable[DrawnBatch]) -> dict[str, float]:
        """One optimizer step over all its parts; returns its metrics."""
        self.model.prepare_for_training_step()
        tables: dict[str, list[torch.Tensor]] = {}
        trees: list[PromptTree] = []
        for batch, kernel in parts:
            loss_B, metrics = self.model.get_loss_and_metrics(batch)
            self.train.check_finite(loss_B, batch.trees, f"the loss at step {self.step + 1}")
            trees += batch.trees
            for name, values_B in ({"loss": loss_B} | metrics | kernel).items():
                tables.setdefault(name, []).append(values_B)
        lr, grad_norm = self.model.finish_training_step()
        self.train.check_finite(torch.full([len(trees)], grad_norm), trees, f"the gradient at step {self.step + 1}")
        self.step += 1
        self.consumed_prompts += len(trees)
        means = {name: torch.cat(values).nanmean().item() for name, values in tables.items()}
        return {
            "loss": means.pop("loss"),
            "lr": lr,
            "grad_norm": grad_norm,
            "consumed_prompts": self.consumed_prompts,
            "tokens": sum(tree.num_tokens for tree in trees),
            **means,
        }

    def run_validation(self) -> dict[str, float]:
        """``val_*`` metrics; none without validation data."""
        if self.validation is None:
            return {}
        return validate(self.model, self.validation, self.sampling, self.objective, self.config)

    def state_dict(self, metrics: dict[str, float]) -> TrainerState:
        """What a checkpoint stores beside weights and optimizer; of ``metrics`` the finite ``val_*``."""
        validation = {
            name: value for name, value in metrics.items() if name.startswith("val_") and math.isfinite(value)
        }
        return TrainerState(
            step=self.step,
            consumed_prompts=self.consumed_prompts,
            seed=self.config.model.seed,
            identity=self.identity,
            schedule=self.model.schedule_state(),
            validation=validation,
        )

    def load_state_dict(self, state: TrainerState) -> None:
        """Continue from a checkpoint's state."""
        self.step, self.consumed_prompts = state.step, state.consumed_prompts
        self.model.load_schedule_state(state.schedule)


def num_training_steps(config: RunConfig, num_prompts: int) -> int:
    """Whole global batches in ``max_epochs`` passes, or ``max_steps`` if that is fewer."""
    steps = config.trainer.mcpo.max_epochs * num_prompts // config.model.global_batch_size
    limit = config.trainer.mcpo.max_steps
    return steps if limit < 0 else min(limit, steps)


def _is_due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
