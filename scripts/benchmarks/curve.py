# SPDX-License-Identifier: Apache-2.0
"""Benchmark of bf16 against float32 training: the same run in both, and a second seed as a measure of noise.

The runs use ``examples/train_gpt_mcpo.py``, one after another, from the same initial weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nemo_mcpo.errors import NemoMcpoError

RUNS = {"fp32": ("32", 1), "fp32, another seed": ("32", 2), "bf16": ("bf16", 1)}
"""Name -> ``trainer.precision`` and ``model.seed``."""
LAST = 0.2
"""Share of the last steps over which losses are averaged."""


def measure_curves(train: Path, overrides: Sequence[str], folder: Path, steps: int) -> dict[str, object]:
    """Return the losses of all runs (nats), and the distances of bf16 and of another seed from float32.

    Args:
        train: path of ``examples/train_gpt_mcpo.py``.
        overrides: its overrides for data, model and accelerator.
        folder: directory for the runs.
        steps: steps per run.
    """
    losses: dict[str, list[float]] = {}
    for name, (precision, seed) in RUNS.items():
        run = folder / name.replace(", ", "-").replace(" ", "-")
        keys = [
            *overrides,
            f"trainer.mcpo.max_steps={steps}",
            "trainer.mcpo.max_epochs=1000",
            f"trainer.precision={precision}",
            f"model.seed={seed}",
            f"exp_manager.explicit_log_dir={run}",
            "exp_manager.create_tensorboard_logger=false",
        ]
        done = subprocess.run(
            [sys.executable, str(train), "--config-name=tiny_cpu", *keys], capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            raise NemoMcpoError(
                "the run failed", where=name, got=" ".join(last), fix="run it alone to see the whole error"
            )
        lines = (run / "metrics.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line)["loss"] for line in lines]
    return {"steps": steps, "losses": losses, **compare(losses)}


def compare(losses: dict[str, list[float]]) -> dict[str, float | bool]:
    """Return the distances of the curves, nats per step, and of their last losses.

    >>> compare({"fp32": [1.0, 0.5], "fp32, another seed": [1.0, 0.7], "bf16": [1.0, 0.6]})["within_noise"]
    True
    """
    exact, other, bf16 = (np.array(losses[name]) for name in RUNS)
    last = max(1, round(LAST * len(exact)))

    def end(curve: np.ndarray) -> float:
        return float(curve[-last:].mean())

    report = {
        "bf16_distance": float(np.abs(bf16 - exact).mean()),
        "seed_distance": float(np.abs(other - exact).mean()),
        "bf16_end_distance": abs(end(bf16) - end(exact)),
        "seed_end_distance": abs(end(other) - end(exact)),
    }
    near = report["bf16_distance"] <= report["seed_distance"]
    ends_near = report["bf16_end_distance"] <= max(report["seed_end_distance"], report["seed_distance"])
    return report | {"within_noise": near and ends_near}


def table(report: dict) -> str:
    lines = [f"{'':<22}first loss   last loss"]
    lines += [f"{name:<22}{losses[0]:<13.4f}{losses[-1]:.4f}" for name, losses in report["losses"].items()]
    for who in ("bf16", "seed"):
        means = f"{report[f'{who}_distance']:.4f} nats per step, {report[f'{who}_end_distance']:.4f} at the end"
        lines.append(f"{'bf16' if who == 'bf16' else 'another seed'} is off by {means}")
    return "\n".join(lines)
