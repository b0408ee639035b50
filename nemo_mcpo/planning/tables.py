# SPDX-License-Identifier: Apache-2.0
"""The tables in docs/planning.md: memory and time of several models on 1 to 1,024 GPUs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from nemo_mcpo.config import RunConfig
from nemo_mcpo.config.schema import changed
from nemo_mcpo.planning.data_shape import DataShape
from nemo_mcpo.planning.gpus import GPUS, GPUS_PER_NODE
from nemo_mcpo.planning.memory import GIB
from nemo_mcpo.planning.plan import Plan
from nemo_mcpo.planning.report import layout_name
from nemo_mcpo.planning.search import OFFLOADED, best_plan, proposal
from nemo_mcpo.planning.shapes import SHAPES
from nemo_mcpo.planning.workload import Question

MODELS = ("llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b")
KINDS = ("A100-80", "H100")
COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)
USED = 7 / 8
"""Smallest share of the GPUs to use; less than 1, because some models' layers divide into few pipelines."""

HEADER = (
    "| GPUs | used | layout | recompute | row, tokens | batch "
    "| GiB per GPU | peak phase | step, s | run, h | GPU-hours |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


SMALL_MODELS = ("llama-3.2-1b", "llama-3.2-3b", "mistral-7b-v0.3", "llama-3.1-8b")
SINGLE_KINDS = ("A100-80", "H100", "H200")
OPTIMIZERS: dict[str, Mapping[str, object]] = {
    "default": {},
    "`moments_dtype=bfloat16`": {"model": {"optim": {"moments_dtype": "bfloat16"}}},
    "`cpu_offload=true`": OFFLOADED,
}
"""Names of the optimizers in the one-GPU table, with their changes of the configuration."""


def markdown(config: RunConfig) -> str:
    """Return a table for one GPU, then one per model and kind of GPU; ``config`` is made for a node of eight."""
    tables = [_table(config, model, kind) for model in MODELS for kind in KINDS]
    return "\n\n".join([_on_one_gpu(config), *tables])


def _on_one_gpu(config: RunConfig) -> str:
    names = [f"{kind} ({GPUS[kind].gibibytes:.0f} GiB)" for kind in SINGLE_KINDS]
    lines = ["### One GPU", "", f"| model | optimizer | {' | '.join(names)} |", "|---|---|---|---|---|"]
    for model, (optimizer, changes) in itertools.product(SMALL_MODELS, OPTIMIZERS.items()):
        own = changed(config, changes)
        plans = [best_plan(own, Question(SHAPES[model], DataShape(), GPUS[kind]), 1) for kind in SINGLE_KINDS]
        lines.append(f"| {model} | {optimizer} | {' | '.join(map(_cell, plans))} |")
    return "\n".join(lines)


def _cell(plan: Plan | None) -> str:
    if plan is None:
        return "does not fit"
    rows = f"rows of {plan.layout.micro_batch_tokens:,}"
    step = f"{plan.time.step_seconds:.1f} s per step"
    return f"{plan.memory.peak / GIB:.0f} GiB: recompute {plan.layout.recompute}, {rows}; {step}"


def _table(config: RunConfig, model: str, kind: str) -> str:
    question = Question(SHAPES[model], DataShape(), GPUS[kind])
    size = math.ceil(question.architecture.num_parameters / 1e6) / 1e3
    lines = [f"### {model} on {kind}", "", f"{size:.2f}B parameters.", "", HEADER]
    return "\n".join(lines + [_line(config, question, count) for count in COUNTS])


def _line(config: RunConfig, question: Question, count: int) -> str:
    # At least one prompt per GPU: every replica needs one, and a replica may be a single GPU.
    batch = max(config.model.global_batch_size, count)
    config = changed(config, {"model": {"global_batch_size": batch}})
    plan = _best_of_nearly_all(config, question, count)
    if plan is None:
        enough = proposal(config, question, count)
        needed = f"needs {enough.layout.num_gpus}" if enough else "never fits"
        return f"| {count} | | does not fit: {needed} | | | | | | | | |"
    layout, time = plan.layout, plan.time
    cells = (
        f"{count}",
        f"{layout.num_gpus}",
        layout_name(plan),
        layout.recompute,
        f"{layout.micro_batch_tokens:,}",
        f"{batch}",
        f"{plan.memory.peak / GIB:.1f}",
        plan.memory.worst_phase,
        f"{time.step_seconds:.2f}",
        f"{time.hours:.1f}",
        f"{plan.gpu_hours:,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _best_of_nearly_all(config: RunConfig, question: Question, count: int) -> Plan | None:
    """Return the fastest plan that uses whole nodes and at least a share ``USED`` of the GPUs."""
    numbers = range(count, math.ceil(count * USED) - 1, -GPUS_PER_NODE)
    plans = [plan for number in numbers if (plan := best_plan(config, question, number))]
    return min(plans, key=lambda plan: plan.time.step_seconds, default=None)
