# SPDX-License-Identifier: Apache-2.0
"""The sweep on a real Slurm: a cache that is built once, an array of runs, and a table."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from nemo_mcpo.models.reference_cache import _whole_chunks
from tests.support.configs import ROOT
from tests.support.jobs import run_keys, site
from tests.support.launch import metrics

pytestmark = [pytest.mark.functional, pytest.mark.slurm]


def scored(cache: Path) -> list[int]:
    """Prompts in the only reference cache, once for each time they were scored."""
    (log,) = cache.glob("prepared/*/reference/*.log")
    return np.concatenate([indices for indices, _, _ in _whole_chunks(log.read_bytes())]).tolist()


def test_two_learning_rates_and_two_seeds(slurm, inputs, tmp_path):
    options = "--nodes=1 --gres=none"
    settings = site(tmp_path, TASKS_PER_NODE="1", LRS="1e-3 2e-3", SEEDS="1 2", METRIC="loss", SBATCH_OPTIONS=options)
    sweep_sh = str(ROOT / "slurm" / "sweep.sh")
    keys = [key for key in run_keys(inputs, tmp_path) if not key.startswith("model.optim.lr")]
    refused = slurm.run("bash", sweep_sh, *keys, "model.optim.lr=1e-3", **settings)
    assert refused.returncode == 2 and "the sweep sets model.optim.lr" in refused.stderr
    sweep = tmp_path / "mcpo_sweep"
    logs = sweep / "logs"
    said = slurm.call("bash", sweep_sh, *keys, "trainer.mcpo.max_steps=3", **settings)
    cache, _, table = map(int, re.findall(r"(?:job|array) (\d+)", said))
    assert slurm.wait(table)["JobState"] == "COMPLETED", (logs / f"mcpo_sweep-{cache}.log").read_text()
    names = ["lr-1e-3-seed-1", "lr-1e-3-seed-2", "lr-2e-3-seed-1", "lr-2e-3-seed-2"]
    assert sorted(path.name for path in sweep.glob("lr-*")) == names
    losses = [metrics(sweep / name)[-1]["loss"] for name in names]
    assert all(len(metrics(sweep / name)) == 3 for name in names) and len(set(losses)) == 4
    assert sorted(scored(tmp_path / "run-cache")) == list(range(24))
    assert not list(ROOT.glob("*.log"))
    printed = (logs / f"mcpo_sweep-{table}.log").read_text()
    for lr, pair in (("0.001", losses[:2]), ("0.002", losses[2:])):
        mean, spread = np.mean(pair), np.std(pair, ddof=1)
        assert re.search(rf"{lr} +2 of 2 +{mean:.4f} ± {spread:.4f}", printed), printed
