# SPDX-License-Identifier: Apache-2.0
"""Profile of an MC-PO step: the time of scoring, drawing, training and optimizer, and what limits each phase.

The device is synchronized after each phase, so that its work is counted in that phase. This slows down the step a
little.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from unittest.mock import patch

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.measure import device_name, peak_bytes, reset_peak, synchronize
from benchmarks.workload import build_trainer, mean_lengths, step_cost, train_step
from nemo_mcpo.algorithms import mcpo
from nemo_mcpo.algorithms.mcpo import MCPOTrainer
from nemo_mcpo.config import RunConfig
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel
from nemo_mcpo.planning.gpus import peak_flops
from nemo_mcpo.records import PromptTree

PHASES = {"scoring": "score", "training": "get_loss_and_metrics", "optimizer": "finish_training_step"}
"""Phase -> the model's method; ``drawing`` is the trainer's ``draw``, and the rest of a step is ``between``."""

KERNELS = {
    "communication": r"nccl|gloo|c10d",
    "attention": r"flash|fmha|attention|attn",
    "products": r"gemm|matmul|\bmm\b|addmm|\bbmm\b|nvjet|cutlass|xmma|wgmma|cublas|linear",
    "optimizer": r"adam|multi_tensor|foreach|lerp|addcdiv",
    "copies": r"memcpy|memset|copy|\bcat\b|index|gather|scatter|\bfill|zero",
}
"""Kind of GPU kernel (on a CPU: operator) -> pattern of its name; the first match counts, else ``elementwise``."""

IDLE = 0.3
"""A phase that leaves the GPU idle for more than this share of its time is limited by launches."""


@dataclass(slots=True)
class Phases:
    """Seconds by phase, excluding nested phases."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _inside: list[str] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the work inside or, as a decorator, each call of a function; including its work on the GPU."""
        synchronize()
        started = time.perf_counter()
        self._inside.append(name)
        with record_function(_label(name)):
            yield
            synchronize()
        self._inside.pop()
        elapsed = time.perf_counter() - started
        self.seconds[name] += elapsed
        if self._inside:
            self.seconds[self._inside[-1]] -= elapsed


def profile_steps(
    config: RunConfig, model: MegatronGPTMCPOModel, trees: Sequence[PromptTree], steps: int
) -> dict[str, object]:
    """Return each phase's median time over ``steps`` steps, and its GPU kernels in one more step."""
    trainer = build_trainer(config, model, trees)
    train_step(trainer)
    reset_peak()
    runs = [_run(trainer) for _ in range(steps)]
    highest = peak_bytes()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as recorded:
        _run(trainer)
    kernels = kernel_seconds(recorded.events())
    whole = median(sum(run.values()) for run in runs)
    names = ("scoring", "drawing", "training", "optimizer", "between")
    cost, num_negatives = step_cost(model), config.model.mcpo.num_negatives
    operations = cost.mcpo(trees, num_negatives) * config.model.global_batch_size / len(trees)
    device, optim = device_name(), config.model.optim
    peak = peak_flops(device)
    report: dict[str, object] = {
        "device": device,
        **mean_lengths(trees),
        "recompute": model.layout.recompute,
        "optimizer": {"moments_dtype": optim.moments_dtype, "cpu_offload": optim.cpu_offload},
        "peak_gigabytes": highest / 1e9,
        "seconds": whole,
        "flops_per_second": operations / whole,
        "utilization": operations / whole / peak if peak else None,
        "phases": {
            name: {"seconds": median(run.get(name, 0.0) for run in runs), "kernels": kernels.get(name, {})}
            for name in names
        },
    }
    for phase in report["phases"].values():  # type: ignore[attr-defined]
        phase["limit"] = limit(phase["seconds"], phase["kernels"], on_gpu=device != "cpu")
    return report


def _run(trainer: MCPOTrainer) -> dict[str, float]:
    """Run one step and return the seconds by phase."""
    phases = Phases()
    with ExitStack() as patches:
        owners = {"drawing": (mcpo, "draw")} | {name: (trainer.model, method) for name, method in PHASES.items()}
        for name, (owner, method) in owners.items():
            patches.enter_context(patch.object(owner, method, phases.phase(name)(getattr(owner, method))))
        with phases.phase("between"):
            train_step(trainer)
    return dict(phases.seconds)


def kernel_seconds(events: Sequence) -> dict[str, dict[str, float]]:
    """Return seconds by phase and kind of GPU kernel or, on a CPU, of operator (excluding operators that it calls)."""
    ranges = [(event.time_range, event.name) for event in events if event.name.startswith(_label(""))]
    ranges = [(time_range, name.removeprefix(_label(""))) for time_range, name in ranges]
    ranges.sort(key=lambda item: item[0].elapsed_us())  # the innermost first
    # The GPU's timeline also has copies of named ranges, which are not GPU kernels.
    of_gpu = [event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation]
    table: dict[str, dict[str, float]] = {}
    for event in of_gpu or events:
        if event.name.startswith(_label("")):
            continue
        at = event.time_range.start
        name = next((name for inside, name in ranges if inside.start <= at <= inside.end), None)
        if name is not None:
            row = table.setdefault(name, defaultdict(float))
            microseconds = event.time_range.elapsed_us() if of_gpu else event.self_cpu_time_total
            row[kind_of(event.name)] += microseconds / 1e6
    return {name: dict(row) for name, row in table.items()}


def kind_of(kernel: str) -> str:
    """Return a key of ``KERNELS``, or ``elementwise``.

    >>> kind_of("sm90_xmma_gemm_bf16bf16_bf16f32"), kind_of("void flash_fwd_kernel"), kind_of("aten::mul")
    ('products', 'attention', 'elementwise')
    """
    return next((kind for kind, name in KERNELS.items() if re.search(name, kernel.lower())), "elementwise")


def limit(seconds: float, kernels: dict[str, float], *, on_gpu: bool) -> str:
    """Return what a phase spends most of its time on.

    >>> limit(1.0, {"products": 0.5, "elementwise": 0.4}, on_gpu=True)
    'products, 50 %'
    >>> limit(1.0, {"products": 0.2}, on_gpu=True)
    'launches: the GPU is idle for 80 %'
    """
    busy = sum(kernels.values())
    if on_gpu and seconds > 0 and 1 - busy / seconds > IDLE:
        return f"launches: the GPU is idle for {100 * (1 - busy / seconds):.0f} %"
    if not kernels or busy == 0:
        return "the program itself"
    kind = max(kernels, key=lambda name: kernels[name])
    return f"{kind}, {100 * kernels[kind] / busy:.0f} %"


def table(reports: Sequence[dict]) -> str:
    lines = []
    for report in reports:
        used = f", {100 * report['utilization']:.0f} % of the peak" if report["utilization"] else ""
        shape = f"P{report['prompt_length']:.0f} C{report['completion_length']:.0f}, recompute {report['recompute']}"
        rate = f"{report['seconds']:.3f} s per step, {report['flops_per_second'] / 1e12:.2f} TFLOP/s"
        used += f", peak {report['peak_gigabytes']:.1f} GB"
        lines.append(f"{shape}, {report['device']}: {rate}{used}")
        for name, phase in report["phases"].items():
            share = 100 * phase["seconds"] / report["seconds"]
            lines.append(f"  {name:<11}{phase['seconds']:>8.3f} s {share:>4.0f} %   {phase['limit']}")
    return "\n".join(lines)


def _label(name: str) -> str:
    return f"nemo_mcpo.phase {name}"
