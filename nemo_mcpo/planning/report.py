# SPDX-License-Identifier: Apache-2.0
"""Formats a plan as a table for people."""

from __future__ import annotations

from nemo_mcpo.planning.memory import FRAGMENTATION, GIB, RESERVED, offloaded_bytes
from nemo_mcpo.planning.plan import Plan


def describe(plan: Plan) -> str:
    """Return the plan as text: layout, memory by part, time, checkpoints."""
    stage = f"pipeline stage {plan.memory.stage + 1} of {plan.layout.pipeline}, which needs the most"
    sections = {
        "": _run(plan),
        f"GPU memory, GiB ({stage})": _memory(plan),
        f"Time, estimated for busy GPUs at {plan.question.hfu:.0%} of their peak (assumed, not measured)": _time(plan),
        "Checkpoints": _checkpoints(plan),
    }
    rows = [row for table in sections.values() for row in table]
    widths = [max(len(row[column]) for row in rows) + 2 for column in (0, 1)]
    lines = []
    for title, table in sections.items():
        lines += ["", title] if title else []
        lines += [f"{name:<{widths[0]}}{value:<{widths[1]}}{note}".rstrip() for name, value, note in table]
    return "\n".join(lines)


def layout_name(plan: Plan) -> str:
    """Return a name such as ``TP4 PP1 DP2``."""
    layout = plan.layout
    interleaved = f" VP{layout.virtual}" if layout.virtual > 1 else ""
    return f"TP{layout.tensor} PP{layout.pipeline}{interleaved} DP{layout.data}"


def _run(plan: Plan) -> list[tuple[str, str, str]]:
    data, layout = plan.question.data, plan.layout
    lengths = f"{data.prompt_length:.0f} + {1 + data.candidates:.0f} x {data.completion_length:.0f} tokens"
    reuse = f"training replays the {layout.reuse} of scoring" if layout.reuse else ""
    return [
        ("GPUs", f"{layout.num_gpus} x {plan.question.gpu.name}", ""),
        ("parameters", f"{plan.question.architecture.num_parameters:,}", "of the model"),
        ("parameters per GPU", f"{plan.memory.parameters:,}", "with vocabulary padding"),
        ("layout", layout_name(plan), "sequence parallel" if layout.sequence_parallel else ""),
        ("recompute", layout.recompute, reuse),
        ("rows", f"{layout.micro_batch_tokens:,} tokens", f"{layout.scoring_tokens:,} for scoring"),
        ("prompts", f"{data.prompts:,}", f"of {lengths}; {layout.global_batch_size} per step"),
    ]


def _memory(plan: Plan) -> list[tuple[str, str, str]]:
    memory, gpu = plan.memory, plan.question.gpu
    phase = memory.worst_phase
    rest = memory.peak - memory.fixed - memory.phases[phase]
    head, layer, recorded = _gib(memory.head), _gib(memory.backward), _gib(memory.recorded)
    last = f"a layer's backward pass {layer}" if memory.backward > memory.head else f"the head's backward pass {head}"
    phases = {
        "training": f"rows in flight {_gib(memory.activations)} + recorded by scoring {recorded} + {last}",
        "scoring": f"recorded for training {recorded} + a layer, or logits {_gib(memory.scoring)}",
        "update": "a chunk of Adam's states, in float32",
        "saving": "a chunk of the optimizer's states, from all replicas",
    }
    parts = [
        ("weights", memory.weights, ""),
        ("gradients", memory.gradients, "float32"),
        ("optimizer", memory.optimizer, _whereabouts(plan)),
        *(
            (f"or {name}" if name != "training" else name, memory.phases[name], note)
            for name, note in phases.items()
            if name != "update" or plan.layout.compact
        ),
        ("reserved", rest, f"assumed: {RESERVED / GIB:.0f} GiB for CUDA and NCCL, {FRAGMENTATION:.0%} fragmentation"),
    ]
    always = " + ".join(_gib(size) for size in (memory.weights, memory.gradients, memory.optimizer))
    terms = f"{always} + {phase} {_gib(memory.phases[phase])} + {_gib(rest)}"
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    total = ("peak", _gib(memory.peak), f"= {terms}; {verdict} in {gpu.gibibytes:.1f} of {gpu.name}")
    return [(name, _gib(size), note) for name, size, note in parts] + [total]


def _whereabouts(plan: Plan) -> str:
    if not plan.layout.offload:
        return f"split over {plan.layout.data} replica{'s' * (plan.layout.data > 1)}"
    size = offloaded_bytes(plan.question.architecture, plan.layout)
    return f"in host memory, {_gib(size)} per process; {plan.time.offload_seconds:.1f} s of transfer per step"


def _time(plan: Plan) -> list[tuple[str, str, str]]:
    time = plan.time
    waiting = f"{time.step_flops:.2e} operations; pipeline x {time.bubble:.2f}, uneven replicas x {time.imbalance:.2f}"
    scored = f"trained, and {time.scored_tokens:,.0f} scored" if time.scored_tokens else "trained"
    # fmt: off
    rows = [
        ("step", f"{time.step_seconds:.2f} s", waiting),
        ("MFU", f"{time.mfu:.0%}", "with all idle time; recompute does not count"),
        ("tokens per step", f"{time.step_tokens:,.0f}", scored),
        ("tokens", f"{time.steps * time.step_tokens / 1e6:,.0f} million", f"trained in {time.steps:,} steps"),
        ("reference", f"{time.reference_seconds / 3600:.2f} h", "once, every completion scored"),
        ("run", f"{time.hours:.1f} h",
         "with reference and checkpoints; without validation and an online run's answers"),
        ("GPU-hours", f"{plan.gpu_hours:,.0f}", ""),
    ]
    # fmt: on
    return [row for row in rows if row[0] != "reference" or time.reference_seconds]


def _checkpoints(plan: Plan) -> list[tuple[str, str, str]]:
    time = plan.time
    speed = f"{time.checkpoints} checkpoints, at {plan.question.write_gbs:g} GB/s in total (assumed)"
    return [
        ("size", f"{time.checkpoint_bytes / 1e9:,.1f} GB", f"at most {time.kept_bytes / 1e9:,.0f} GB on disk"),
        ("writing", f"{time.checkpoint_seconds:,.0f} s", speed),
        (
            "host memory",
            f"{plan.host_bytes / 1e9:,.0f} GB",
            "at most, per node, while one is written or read",
        ),
    ]


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"
