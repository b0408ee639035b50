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
from collections.abc import Iterator

import torch

from nemo_mcpo.algorithms.checkpointing import CheckpointManager, TrainerState
from nemo_mcpo.algorithms.negatives import NegativeSampling, ReferencedTrees, kernel_metrics, prune
from nemo_mcpo.algorithms.progress import Progress
from nemo_mcpo.algorithms.run_log import RunLog
from nemo_mcpo.algorithms.validation import validate
from nemo_mcpo.config import RunConfig
from nemo_mcpo.data.order import PromptStream
from nemo_mcpo.models.interface import SupportsPreferenceTraining
from nemo_mcpo.records import Objective, PreferenceBatch, PromptTree


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
        with Progress(self.num_steps, self.step) as progress:
            for batch, kernel, started in self.augment_dataloader():
                metrics = self.train_single_step(batch) | kernel
                metrics["step_seconds"] = time.perf_counter() - started
                last = self.step == self.num_steps
                if last or _is_due(self.step, settings.val_check_interval):
                    metrics |= self.run_validation()
                self.log.write(self.step, metrics)
                progress.update(metrics, prompts=len(batch.trees))
                if last or _is_due(self.step, settings.save_interval):
                    self.checkpoints.save(self.model, self.state_dict(metrics))

    def augment_dataloader(self) -> Iterator[tuple[PreferenceBatch, dict[str, float], float]]:
        """Batches with drawn negatives, the kernel's metrics, and when the step began (``time.perf_counter``)."""
        while self.step < self.num_steps:
            started = time.perf_counter()
            places = self.stream.take(self.consumed_prompts, self.config.model.global_batch_size)
            trees = [self.train.dataset[index] for _, index in places]
            batch, metrics = self.draw(trees, epochs=[epoch for epoch, _ in places])
            yield batch, metrics, started

    def draw(self, trees: list[PromptTree], epochs: list[int]) -> tuple[PreferenceBatch, dict[str, float]]:
        """Score the candidates under the current weights; keep y0 and M drawn negatives of every prompt."""
        sampling, reference_BK = self.sampling, self.train.ref_logps_BK(trees)
        rewards_BK = torch.zeros_like(reference_BK)
        if sampling.reads_weights:
            rewards_BK = self.model.score(trees, sampling.first_column).cpu() - reference_BK
            rewards_BK[:, : sampling.first_column] = 0.0
            self.train.check_finite(rewards_BK.sum(1), trees, f"a reward at step {self.step + 1}")
        log_weights_BK = sampling.log_weights_BK(rewards_BK, trees)
        columns_BM = sampling.columns_BM(log_weights_BK, trees, epochs)
        metrics = {name: _mean(values) for name, values in kernel_metrics(log_weights_BK).items()}
        if not sampling.reads_weights:  # nothing was scored, so the kernel is not known
            metrics = dict.fromkeys(metrics, math.nan)
        return prune(trees, columns_BM, reference_BK), metrics

    def train_single_step(self, batch: PreferenceBatch) -> dict[str, float]:
        """One optimizer step; returns its metrics."""
        self.model.prepare_for_training_step()
        loss_B, metrics_B = self.model.get_loss_and_metrics(batch)
        self.train.check_finite(loss_B, batch.trees, f"the loss at step {self.step + 1}")
        lr, grad_norm = self.model.finish_training_step()
        self.train.check_finite(
            torch.full_like(loss_B, grad_norm), batch.trees, f"the gradient at step {self.step + 1}"
        )
        self.step += 1
        self.consumed_prompts += len(batch.trees)
        return {
            "loss": loss_B.mean().item(),
            "lr": lr,
            "grad_norm": grad_norm,
            "consumed_prompts": self.consumed_prompts,
            "tokens": sum(tree.num_tokens for tree in batch.trees),
            **{name: _mean(values) for name, values in metrics_B.items()},
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


def _mean(values_B: torch.Tensor) -> float:
    """Average over the prompts that have a value; NaN when none has."""
    return values_B.nanmean().item()
