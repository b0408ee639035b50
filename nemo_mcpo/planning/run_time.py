# SPDX-License-Identifier: Apache-2.0
"""How long a run takes, estimated: the operations of its steps at a stated share of the GPUs' peak.

    step = B · operations of a prompt · imbalance · bubble / (GPUs · peak · HFU) + offload
    MFU  = operations that nothing runs twice / (step · GPUs · peak)

    imbalance   ⌈B / DP⌉ DP / B              replicas that have a prompt less wait
    bubble      (m + (p − 1) / v) / m        stages that wait at the beginning and the end of m rows
    offload     states there and back        Adam's, where they are in host memory, at the GPU's bandwidth to it

The HFU is that of a GPU at work, counted over everything that it computes, recompute included; what tensor parallelism
and reductions of gradients cost is a part of it. The MFU is what comes out, as PaLM (arXiv:2204.02311) defines it: the
scoring pass is work, recompute and waiting are not. In FP8 the peak is that of bf16.
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
        step_flops: operations of a step, on all GPUs.
        offload_seconds: of a step, for states that come from host memory and go back.
        mfu: share of the peak, by what nothing runs twice and with all waiting.
        step_tokens: packed tokens that a step trains; ``scored_tokens`` those that it scores.
        reference_seconds: every answer scored once before the first step.
        checkpoint_bytes: of one checkpoint; ``kept_bytes`` of all that are on disk at once.
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
        """Of the whole run, without validation and without an online run's answers and judge."""
        seconds = self.reference_seconds + self.steps * self.step_seconds + self.checkpoints * self.checkpoint_seconds
        return seconds / 3600


def run_time(config: RunConfig, question: Question, layout: Layout) -> RunTime:
    """See the top of the file."""
    a, data, trainer, mcpo = question.architecture, question.data, config.trainer.mcpo, config.model.mcpo
    batch, rows = layout.global_batch_size, rows_of(layout, data)
    cost = StepCost(
        a,
        layout.recompute,
        reuse=layout.reuse is not None,
        replays_attention=False,
        repeats_head=rows.targets * rows.even * a.padded_vocab_size / layout.tensor > LOGITS_KEPT["cuda"],
    )
    tree, pruned = data.tree(1 + data.candidates), data.tree(1 + mcpo.num_negatives)
    step_flops, useful_flops = (
        batch * (one.step(tree, pruned) if layout.scores else one.trained(pruned)) for one in (cost, cost.useful())
    )
    imbalance = rows.prompts * layout.data / batch
    bubble = (rows.count + (layout.pipeline - 1) / layout.virtual) / rows.count
    peak = layout.num_gpus * question.gpu.peak_flops(config.trainer.precision)
    flops_per_second = peak * question.hfu
    offload_seconds = 2 * offloaded_bytes(a, layout) / (question.gpu.host_gbs * 1e9)
    step_seconds = step_flops * imbalance * bubble / flops_per_second + offload_seconds
    steps = trainer.max_epochs * data.prompts // batch
    steps = min(steps, trainer.max_steps) if trainer.max_steps >= 0 else steps
    has_reference = Need.REFERENCE in needs_of(config)
    referenced = min(data.prompts, steps * batch) if has_reference else 0
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
        scored_tokens=batch * data.tokens(1 + data.candidates) if layout.scores else 0.0,
        reference_seconds=referenced * cost.forward(tree) * bubble / flops_per_second,
        checkpoints=-(-steps // interval) if interval else 1,
        checkpoint_bytes=size,
        kept_bytes=size * (trainer.keep_last + trainer.keep_best * (config.model.data.validation is not None) + 1),
        checkpoint_seconds=size / (question.write_gbs * 1e9),
    )
