# SPDX-License-Identifier: Apache-2.0
"""Submits the job scripts to a small Slurm cluster: two nodes with two processes each, and a small run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.configs import ROOT
from tests.support.launch import overrides
from tests.support.slurm import Slurm

JOB = ROOT / "slurm" / "mcpo_llama8b.sh"
STEPS = {"trainer__mcpo__max_steps": 12, "trainer__mcpo__save_interval": 5}
LAYOUT = {"model__tensor_model_parallel_size": 2}
TWO_NODES = ("--nodes=2", "--gres=none")


def site(results: Path, **changes: str) -> dict[str, str]:
    """Return what slurm/site.env sets, for two processes per node."""
    own = {"CONFIG": "tiny_cpu", "TASKS_PER_NODE": "2", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return own | {"NEMO_MCPO_RESULTS": str(results), "NEMO_MCPO_SITE": "/none"} | changes


def run_keys(inputs: Path, results: Path, **changes: object) -> list[str]:
    """Return the overrides of the run; the script sets its directory."""
    keys = overrides(inputs, results / "run", **STEPS, **changes)
    return [key for key in keys if not key.startswith("exp_manager.explicit_log_dir")]


def program(path: Path, text: str, shell: str = "sh") -> Path:
    """Write a program of a shell; return its path."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/{shell}\n{text}\n")
    path.chmod(0o755)
    return path


def submit(slurm: Slurm, inputs: Path, results: Path, *keys: str, **changes: str) -> int:
    """Submit a job that writes ``results/run`` and ``results/batch.log``; ``changes`` are variables of the site."""
    words = ("--job-name=run", *TWO_NODES, f"--output={results}/batch.log", str(JOB))
    return slurm.submit(*words, *run_keys(inputs, results, **LAYOUT), *keys, **site(results, **changes))


def said(results: Path) -> str:
    """Return the output of the batch script, and of the ranks in all its starts."""
    logs = [results / "batch.log", *sorted((results / "run" / "logs").glob("*.log"))]
    return "".join(log.read_text() for log in logs if log.exists())


def ranks(results: Path) -> list[int]:
    """Return the process ids of the training ranks, in the order of their start."""
    found = subprocess.run(["pgrep", "-f", f"python.*train_gpt_mcpo.py.*{results}"], capture_output=True, text=True)
    own = subprocess.run(["pgrep", "-x", "srun"], capture_output=True, text=True).stdout.split()
    return [int(number) for number in found.stdout.split() if number not in own]
