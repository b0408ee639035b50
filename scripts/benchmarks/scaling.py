# SPDX-License-Identifier: Apache-2.0
"""Benchmark of scaling: the cost of an MC-PO step by number of candidates, negatives, tokens and processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import Spread, interleave
from benchmarks.workload import Shape, build_trainer, step_cost, synthetic_trees, train_step
from nemo_mcpo.config import RunConfig
from nemo_mcpo.config.schema import changed
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel

LAYOUTS = {"DP2": (), "TP2": ("model.tensor_model_parallel_size=2",), "PP2": ("model.pipeline_model_parallel_size=2",)}


@dataclass(frozen=True, slots=True)
class Case:
    """One measured point, and the variable of its series."""

    varies: str
    shape: Shape
    candidates: int = 5
    negatives: int = 1


CASES = (
    *(Case("L", Shape(250, 250), candidates=count) for count in (5, 10, 15, 20)),
    *(Case("M", Shape(250, 250), negatives=count) for count in (1, 2, 3, 5)),
    *(Case("P/C", Shape(prompt, 500 - prompt)) for prompt in (50, 150, 250, 350, 450)),
    *(Case("length", Shape(length // 2, length // 2)) for length in (128, 256, 512, 1024)),
)


def measure_cases(
    config: RunConfig, model: MegatronGPTMCPOModel, cases: Sequence[Case], steps: int
) -> Iterator[dict[str, object]]:
    """Yield the seconds and floating-point operations of each case; the cases of a series run in turns."""
    for varies in dict.fromkeys(case.varies for case in cases):
        alike = [case for case in cases if case.varies == varies]
        programs: dict[str, Callable[[], object]] = {}
        flops: dict[Case, float] = {}
        for case in alike:
            own = changed(config, {"model": {"mcpo": {"num_negatives": case.negatives}}})
            size = config.model.global_batch_size
            trees = synthetic_trees(case.shape, size, 1 + case.candidates, model.architecture.vocab_size, seed=0)
            trainer = build_trainer(own, model, trees)
            flops[case] = step_cost(model).mcpo(trees, case.negatives)
            programs[str(case)] = partial(train_step, trainer)
        measured = interleave(programs, steps)
        for case in alike:
            seconds = Spread.of([run.seconds for run in measured[str(case)]])
            yield {
                "varies": varies,
                "prompt_length": case.shape.prompt,
                "completion_length": case.shape.completion,
                "candidates": case.candidates,
                "negatives": case.negatives,
                "seconds": seconds.as_dict(),
                "flops": flops[case],
            }


def cost_of_a_candidate(reports: Sequence[dict]) -> dict[str, float]:
    """Fit a line to seconds against L; return its slope, its intercept and R²."""
    points = [(one["candidates"], one["seconds"]["median"]) for one in reports if one["varies"] == "L"]
    count, seconds = np.array(points, dtype=float).T
    slope, intercept = np.polyfit(count, seconds, 1)
    residual = seconds - (slope * count + intercept)
    explained = 1.0 - float((residual**2).sum() / ((seconds - seconds.mean()) ** 2).sum())
    return {"seconds_per_candidate": float(slope), "seconds_without": float(intercept), "r_squared": explained}


def measure_layouts(script: Path, arguments: Sequence[str]) -> Iterator[dict[str, object]]:
    """Measure ``step`` in two processes with one thread each, under every layout of two."""
    for name, overrides in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "step.json"
            command = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node=2",
                str(script),
            ]
            command += ["step", *arguments, "--json", str(out)]
            command += [part for override in overrides for part in ("--set", override)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
            yield {"layout": name, **json.loads(out.read_text())[0]}


def table(reports: Sequence[dict]) -> str:
    lines = [f"{'varies':<9}{'P':>5}{'C':>6}{'L':>4}{'M':>4}{'seconds':>22}{'GFLOP/s':>10}"]
    for one in reports:
        spread = Spread(**one["seconds"])
        shape = f"{one['prompt_length']:>5}{one['completion_length']:>6}{one['candidates']:>4}{one['negatives']:>4}"
        lines.append(f"{one['varies']:<9}{shape}{spread!s:>22}{one['flops'] / spread.median / 1e9:>10.0f}")
    return "\n".join(lines)
