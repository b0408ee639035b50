# SPDX-License-Identifier: Apache-2.0
"""MC-PO training: score all candidates, draw negatives with the Monte-Carlo kernel, take one optimizer step.

    r(x, y)  = log π_θ(y|x) − log π_ref(y|x)
    w_i      ∝ exp(β r(x, y_i)),  i over the candidates                    (Algorithm 1)
    L        = −β r(x, y_0) + log Σ_{i=0..M} exp(β r(x, y_i))              (Eq. 7)

Paper: arXiv 2502.04567. A draw depends only on (seed, epoch, prompt id, rewards), so it is the same for any number of
processes and any packing. The preferred completion is not scored, since the draw does not need its reward.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nemo_mcpo.algorithms.checkpointing import CheckpointManager, TrainerState
from nemo_mcpo.algorithms.engine_check import check_shared_prefixes
from nemo_mcpo.algorithms.negatives import (
    Drawn,
    NegativeSampling,
    NotFiniteError,
    ReferencedTrees,
    draw,
    valid_columns,
)
from nemo_mcpo.algorithms.progress import Progress
from nemo_mcpo.algorithms.run_log import RunLog
from nemo_mcpo.algorithms.validation import validate
from nemo_mcpo.config import RunConfig
from nemo_mcpo.data.order import PromptStream
from nemo_mcpo.models.interface import SupportsPreferenceTraining
from nemo_mcpo.objectives import bind_objective, find_objective
from nemo_mcpo.platform.distributed import agreed_reason, leave_together
from nemo_mcpo.platform.stopping import StopRequest
from nemo_mcpo.records import ObjectiveInputs, ObjectiveOutputs, PromptTree
from nemo_mcpo.sampling import kernel_log_weights, total_variation

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """The prompts of one optimizer step, with the candidates that it scores, and the epoch of each.

    The same on every rank.
    """

    trees: list[PromptTree]
    epochs: list[int]


class MCPOTrainer:
    """Runs MC-PO, or any other objective and sampler of the tables, on a model that takes prompt trees.

    Args:
        config: the checked configuration; it names the objective and the sampler.
        model: with weights loaded and optimizer built.
        last_step: the step after which to stop: the end of the run, or of a segment.
        identity: what must not change when the run is resumed.
        stop: source of requests to stop early; None for no such requests.
    """

    def __init__(
        self,
        config: RunConfig,
        model: SupportsPreferenceTraining,
        train: ReferencedTrees,
        validation: ReferencedTrees | None,
        last_step: int,
        checkpoints: CheckpointManager,
        log: RunLog,
        identity: dict[str, object],
        stop: StopRequest | None = None,
    ) -> None:
        self.config, self.model = config, model
        chosen = config.model.mcpo.objective
        self.bound = bind_objective(chosen.name, chosen.parameters, config.model.mcpo.beta)
        self.statistics = find_objective(chosen.name).statistics
        self.sampling = NegativeSampling.from_config(config.model)
        self.train, self.validation, self.last_step = train, validation, last_step
        self.checkpoints, self.log, self.identity = checkpoints, log, identity
        self.stop = stop or StopRequest()
        self.stream = PromptStream(len(train.dataset), config.model.seed, config.model.data.shuffle)
        self.step = 0
        self.consumed_prompts = 0
        self.batch_state = self.statistics.initial

    def fit(self) -> None:
        """Train from the current step to the last; log every step and save checkpoints as configured.

        Raises:
            StoppedEarly: on every rank, after a step and its checkpoint, if any rank was asked to stop.
        """
        settings = self.config.trainer.mcpo
        if self.step < self.last_step:
            check_shared_prefixes(self.model, self.next_step().trees, self.config.trainer.precision)
        save_seconds = 0.0  # of the last checkpoint; the next one is expected to take as long
        with Progress(self.last_step, self.step) as progress:
            while self.step < self.last_step:
                step = self.next_step()
                started = time.perf_counter()
                self.log.heartbeat.beat("train", self.step, self.last_step)
                metrics = self._train_or_save_prompts(step)
                metrics["step_seconds"] = time.perf_counter() - started
                last = self.step == self.last_step
                if last or _is_due(self.step, settings.val_check_interval):
                    metrics |= self.run_validation()
                self.log.write(self.step, metrics)
                progress.update(metrics, prompts=self.config.model.global_batch_size)
                reason = None if last else agreed_reason(self.stop, metrics["step_seconds"] + save_seconds)
                if last or reason or _is_due(self.step, settings.save_interval):
                    started = time.perf_counter()
                    self.checkpoints.save(self.model, self.state_dict(metrics))
                    save_seconds = time.perf_counter() - started
                if reason:
                    leave_together(f"{reason}, after step {self.step}")
        self.log.heartbeat.beat("done", self.step, self.last_step)

    def _train_or_save_prompts(self, step: Step) -> dict[str, float]:
        try:
            return self.train_single_step(step)
        except NotFiniteError:
            if (path := self.log.save_prompts(self.step + 1, self.train.named(step.trees))) is not None:
                logger.error("the prompts of step %d are in %s", self.step + 1, path)
            raise

    def objective(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """The configured objective, given the statistics of earlier batches."""
        return self.bound(replace(inputs, state=self.batch_state))

    def next_step(self) -> Step:
        """The prompts of the next optimizer step."""
        places = self.stream.take(self.consumed_prompts, self.config.model.global_batch_size)
        trees = [self.sampling.propose(self.train.dataset[index], epoch) for epoch, index in places]
        return Step(trees, [epoch for epoch, _ in places])

    def train_single_step(self, step: Step) -> dict[str, float]:
        """Train this replica's prompts part by part, update the weights, and return the step's metrics."""
        trees = step.trees
        self.model.prepare_for_training_step()
        parts = self.model.parts(trees) if self.sampling.reads_weights else [self.model.share(trees)]
        tables = [self.train_part([trees[n] for n in part], [step.epochs[n] for n in part]) for part in parts]
        columns = {name: torch.cat([table[name] for table in tables]) for name in tables[0]}
        metrics_B = self.model.collect(columns, [n for part in parts for n in part], len(trees))
        for name, what in (("rewards", "a reward"), ("loss", "the loss")):
            self.train.check_finite(metrics_B[name], trees, f"{what} at step {self.step + 1}")
        lr, grad_norm = self.model.finish_training_step(len(trees))
        if not math.isfinite(grad_norm):
            raise NotFiniteError(
                f"the gradient at step {self.step + 1} is not finite",
                where="its norm",
                got=grad_norm,
                fix="lower model.optim.lr or set trainer.precision=32; the last checkpoint is unharmed",
            )
        self.step += 1
        self.consumed_prompts += len(trees)
        self.batch_state = self.statistics.update(self.batch_state, metrics_B)
        del metrics_B["rewards"]
        return {
            "loss": metrics_B.pop("loss").mean().item(),
            "lr": lr,
            "grad_norm": grad_norm,
            "consumed_prompts": self.consumed_prompts,
            "tokens": int(metrics_B.pop("tokens").double().sum().item()),
            **{name: values.nanmean().item() for name, values in metrics_B.items()},
        }

    def train_part(self, trees: list[PromptTree], epochs: list[int]) -> dict[str, Tensor]:
        """Score some prompts under the current weights, draw their negatives, and accumulate their gradients.

        Returns:
            Tables ``[b]``: loss, tokens, metrics, and the sum of each prompt's rewards (to check that all are finite).
        """
        sampling, reference_bK = self.sampling, self.train.ref_logps_BK(trees)
        scored = self.model.score(trees, sampling.first_column) if sampling.reads_weights else None
        drawn = draw(sampling, trees, epochs, reference_bK, None if scored is None else scored.logps_bK)
        fp8 = {}
        if scored is not None and self.config.model.mcpo.scoring_fp8:
            fp8["kernel/fp8_total_variation"] = self._fp8_total_variation(trees, reference_bK, drawn)
        loss_b, metrics = self.model.get_loss_and_metrics(drawn.batch, self.objective, scored)
        tokens_b = torch.tensor([float(tree.num_tokens) for tree in drawn.batch.trees])
        own = {"rewards": drawn.rewards_bK.sum(1), "loss": loss_b, "tokens": tokens_b}
        return own | metrics | drawn.kernel | fp8

    def _fp8_total_variation(self, trees: list[PromptTree], reference_bK: Tensor, drawn: Drawn) -> Tensor:
        """Total variation ``[b]`` between FP8 and exact kernel weights: for the first prompt, NaN for the others."""
        sample, distance_b = trees[:1], torch.full((len(trees),), math.nan)
        width = len(sample[0].completions)
        logps_1K = self.model.score(sample, self.sampling.first_column, exactly=True).logps_bK.cpu()
        valid_1K = valid_columns(sample, self.sampling.first_column)
        exact_1K = kernel_log_weights(logps_1K - reference_bK[:1, :width], self.sampling.beta, valid_1K)
        distance_b[:1] = total_variation(drawn.log_weights_bK[:1, :width], exact_1K)
        return distance_b

    def run_validation(self) -> dict[str, float]:
        """The ``val_*`` metrics; empty without validation data."""
        if self.validation is None:
            return {}
        return validate(self.model, self.validation, self.sampling, self.objective, self.config)

    def state_dict(self, metrics: dict[str, float]) -> TrainerState:
        """What a checkpoint stores besides weights and optimizer, including the finite ``val_*`` of ``metrics``."""
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
            batch_state=dict(self.batch_state),
        )

    def load_state_dict(self, state: TrainerState) -> None:
        """Continue from a checkpoint's state."""
        self.step, self.consumed_prompts = state.step, state.consumed_prompts
        self.model.load_schedule_state(state.schedule)
        self.batch_state = {**self.statistics.initial, **state.batch_state}


def _is_due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
