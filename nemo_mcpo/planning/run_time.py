# SPDX-License-Identifier: Apache-2.0
"""Estimated run time: the operations of all steps at an assumed share of the GPUs' peak.

    step = B · operations of a prompt · imbalance · bubble / (GPUs · peak · HFU) + offload
    MFU  = operations without repeated ones / (step · GPUs · peak)

    imbalance   ⌈B / DP⌉ DP / B              replicas with one prompt less wait
    bubble      (m + (p − 1) / v) / m        stages are idle at the beginning and the end of m rows
    offload     both transfers of states     Adam's states in host memory, at the GPU's bandwidth to the host

The HFU is that of a busy GPU and counts everything it computes, recompute included. It also absorbs the cost of tensor
parallelism and gradient reduction. The MFU is a result, defined as in PaLM (arXiv:2204.02311): scoring counts as work,
recompute and idle time do not. For FP8 the peak is that of bf16.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mcpo.config import RunConfig
from nemo_mcpo.models.budgets import LOGITS_KEPT
from nemo_mcpo.planning.cost_model import StepCost
from nemo_mcpo.planning.data_shape import needs_of
from nemo_mcpo.planning.memory import offloaded_bytes
from nemo_mcpo.planning.parameters import checkpoint_bytes
from nemo_mcpo.planning.workload import Layout, Question, rows_of
from nemo_mcpo.variant import Need


@dataclass(frozen=True, slots=True)
class RunTime:
    """Seconds, operations, tokens and bytes of a run.

    Attributes:
        step_flops: operations per step, on all GPUs.
        offload_seconds: time per step for transfers of states from host memory and back.
        mfu: share of the peak, without repeated operations and with all idle time.
        step_tokens: packed tokens trained per step; ``scored_tokens`` is the number scored.
        reference_seconds: time to score every completion once before the first step.
        checkpoint_bytes: size of one checkpoint; ``kept_bytes`` is the size of all that are on disk at once.
    """

    steps: int
    step_flops: float
    step_seconds: float
    offload_seconds: float
    mfu: float
    bubble: float
    imbalance: float
    step_tokens: float
    scored_tokens: float
    reference_seconds: float
    checkpoints: int
    checkpoint_bytes: int
    kept_bytes: int
    checkpoint_seconds: float

    @property
    def hours(self) -> float:
        """Duration of the whole run, without validation and without an online run's answers and judge."""
        seconds = self.reference_seconds + self.steps * self.step_seconds + self.checkpoints * self.checkpoint_seconds
        return seconds / 3600


def run_time(config: RunConfig, question: Question, layout: Layout) -> RunTime:
    """Estimate the run time; see the top of the file for the formulas."""
    a, data, trainer, mcpo = question.architecture, question.data, config.trainer.mcpo, config.model.mcpo
    batch, rows = layout.global_batch_size, rows_of(layout, data)
    cost = StepCost(
        a,
        layout.recompute,
        reuse=layout.reuse is not None,
        replays_attention=False,
        repeats_head=rows.targets * rows.even * a.padded_vocab_size / layout.tensor > LOGITS_KEPT["cuda"],
    )
    tree, scored, pruned = (data.tree(1 + count) for count in (data.candidates, data.scored, mcpo.num_negatives))
    step_flops, useful_flops = (
        batch * (one.step(scored, pruned) if layout.scoring else one.trained(pruned)) for one in (cost, cost.useful())
    )
    imbalance = rows.prompts * layout.data / batch
    bubble = (rows.count + (layout.pipeline - 1) / layout.virtual) / rows.count
    peak = layout.num_gpus * question.gpu.peak_flops(config.trainer.precision)
    flops_per_second = peak * question.hfu
    offload_seconds = 2 * offloaded_bytes(a, layout) / (question.gpu.host_gbs * 1e9)
    step_seconds = step_flops * imbalance * bubble / flops_per_second + offload_seconds
    steps = trainer.max_epochs * data.prompts // batch
    steps = min(steps, trainer.max_steps) if trainer.max_steps >= 0 else steps
    referenced = min(data.prompts, steps * batch) if Need.REFERENCE in needs_of(config) else 0
    size = checkpoint_bytes(a.num_parameters, layout.itemsize)
    interval = trainer.save_interval
    return RunTime(
        steps=steps,
        step_flops=step_flops,
        step_seconds=step_seconds,
        offload_seconds=offload_seconds,
        mfu=useful_flops / (step_seconds * peak),
        bubble=bubble,
        imbalance=imbalance,
        step_tokens=batch * data.tokens(1 + mcpo.num_negatives),
        scored_tokens=batch * data.tokens(1 + data.scored) if layout.scoring else 0.0,
        reference_seconds=referenced * cost.forward(tree) * bubble / flops_per_second,
        checkpoints=-(-steps // interval) if interval else 1,
        checkpoint_bytes=size,
        kept_bytes=size * (trainer.keep_last + trainer.keep_best * (config.model.data.validation is not None) + 1),
        checkpoint_seconds=size / (question.write_gbs * 1e9),
    )
