# SPDX-License-Identifier: Apache-2.0
"""Results of a sweep over learning rates and seeds by ``slurm/sweep.sh``: mean and standard deviation over seeds.

results/mcpo_sweep/lr-1e-6-seed-1/metrics.jsonl, …
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from nemo_mcpo.errors import DataError
from nemo_mcpo.storage.append_log import read_lines

LOWER_IS_BETTER = re.compile(r"(val_)?loss$")
_NAME = re.compile(r"lr-(?P<lr>.+)-seed-(?P<seed>\d+)$")


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One point of the grid; ``value`` is that of the metric, None if there is none yet."""

    lr: float
    seed: int
    steps: int
    done: bool
    value: float | None


def read_runs(directory: Path, metric: str) -> list[SweepRun]:
    """Read the runs in ``directory``, sorted by learning rate and seed.

    Raises:
        DataError: there are no runs, or none has the metric.
    """
    found = [(match, path) for path in directory.glob("lr-*-seed-*") if (match := _NAME.match(path.name))]
    if not found:
        raise DataError("no runs found", where=str(directory), expected="directories named lr-…-seed-…")
    runs, known = [], set[str]()
    for match, path in found:
        lines = _lines(path / "metrics.jsonl")
        known.update(*lines)
        value = final_value(lines, metric)
        runs.append(SweepRun(float(match["lr"]), int(match["seed"]), len(lines), _is_done(path), value))
    if all(run.value is None for run in runs):
        names = ", ".join(sorted(known)) or "nothing yet"
        raise DataError("no run has this metric", where=str(directory), got=metric, expected=f"one of {names}")
    return sorted(runs, key=lambda run: (run.lr, run.seed))


def final_value(lines: Sequence[dict[str, float | None]], metric: str) -> float | None:
    """The value of the last validation, or, for a metric of every step, the mean over the last tenth of the steps."""
    values = [value for line in lines if (value := line.get(metric)) is not None]
    if not values:
        return None
    return values[-1] if metric.startswith("val_") else fmean(values[-max(1, len(values) // 10) :])


def sweep_table(runs: Iterable[SweepRun], metric: str) -> str:
    """A table with one line per learning rate and the best one marked; the deviation is that of a sample (n − 1)."""
    groups: dict[float, list[SweepRun]] = {}
    for run in runs:
        groups.setdefault(run.lr, []).append(run)
    means = {lr: fmean(values) for lr, own in groups.items() if (values := _values(own))}
    choose = min if LOWER_IS_BETTER.match(metric) else max
    best = choose(means, key=means.__getitem__)
    rows = [f"{'learning rate':<15}{'runs':<9}{metric}"]
    for lr, own in groups.items():
        values = _values(own)
        spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
        mean = f"{means[lr]:.4f}{spread}{'  best' if lr == best else ''}" if values else "–"
        rows.append(f"{lr:<15.3g}{f'{sum(run.done for run in own)} of {len(own)}':<9}{mean}")
    return "\n".join(rows)


def _values(runs: Iterable[SweepRun]) -> list[float]:
    return [run.value for run in runs if run.value is not None]


def _lines(path: Path) -> list[dict[str, float | None]]:
    return [json.loads(line) for _, line in read_lines(path)] if path.exists() else []


def _is_done(run: Path) -> bool:
    heartbeat = run / "heartbeat.json"
    return heartbeat.exists() and json.loads(heartbeat.read_text())["doing"] == "done"
