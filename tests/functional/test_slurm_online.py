# SPDX-License-Identifier: Apache-2.0
"""The online job on a real Slurm: stages as steps on the same nodes, or training and servers on separate nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.configs import ROOT
from tests.support.jobs import LAYOUT, said, site
from tests.support.launch import environment, metrics
from tests.support.online import online_overrides
from tests.support.slurm import Slurm

pytestmark = [pytest.mark.functional, pytest.mark.slurm]
ON_ONE_NODE = ("--nodes=1", "--gres=none")
TRAINER_AND_SERVERS_APART = (*ON_ONE_NODE, ":", *ON_ONE_NODE)


def submit(slurm: Slurm, script: str, inputs: Path, results: Path, *options: str, **changes: str) -> int:
    """Submit a job of two steps in one segment; the script itself sets the overrides that are removed here."""
    keys = online_overrides(inputs, results / "run", trainer__mcpo__max_steps=2, **LAYOUT)
    keys = [key for key in keys if not key.startswith(("exp_manager.explicit_log_dir", "onmcpo.segments"))]
    settings = site(results, CONFIG="gpt_onmcpo", SEGMENTS="1", PYTHONPATH=environment()["PYTHONPATH"], **changes)
    words = ("--job-name=run", f"--output={results}/batch.log", *options, str(ROOT / "slurm" / script))
    return slurm.submit(*words, *keys, **settings)


@pytest.fixture(scope="module")
def finished(slurm, inputs, tmp_path_factory) -> Path:
    """Results directory of an online run on one node."""
    results = tmp_path_factory.mktemp("online")
    job = submit(slurm, "onmcpo_llama8b.sh", inputs, results, *ON_ONE_NODE)
    assert slurm.wait(job)["JobState"] == "COMPLETED", said(results)
    return results


def test_stage_after_stage(slurm, inputs, finished):
    """A job that is submitted again finds all stages finished."""
    assert [line["step"] for line in metrics(finished / "run")] == [1, 2]
    assert "segment 1 of 1: judge on n0" in said(finished)
    job = submit(slurm, "onmcpo_llama8b.sh", inputs, finished, *ON_ONE_NODE)
    assert slurm.wait(job, 60.0)["JobState"] == "COMPLETED", said(finished)


def test_training_and_servers_apart(slurm, inputs, finished, tmp_path):
    """Two groups of a heterogeneous job give the same result as one node."""
    job = submit(slurm, "onmcpo_llama8b.sh", inputs, tmp_path, *TRAINER_AND_SERVERS_APART)
    assert slurm.wait(job)["JobState"] == "COMPLETED", said(tmp_path)
    for stage, node in (("export", "n0"), ("generate", "n1"), ("judge", "n1"), ("train", "n0")):
        assert f"segment 1 of 1: {stage} on {node}" in said(tmp_path)
    losses = [[line["loss"] for line in metrics(results / "run")] for results in (tmp_path, finished)]
    assert losses[0] == losses[1]


def test_the_newest_checkpoint_before_a_judge(slurm, inputs, finished, tmp_path):
    paths = {"RUN": finished / "run", "BASELINE": inputs / "model", "EVAL_DATA": inputs / "data.jsonl"}
    settings = {name: str(path) for name, path in paths.items()}
    job = submit(slurm, "evaluate.sh", inputs, tmp_path, *ON_ONE_NODE, **settings)
    assert slurm.wait(job)["JobState"] == "COMPLETED", said(tmp_path)
    assert "win rate " in (tmp_path / "batch.log").read_text()
    assert (tmp_path / "run" / "run-step-00000002" / "win_rate.json").is_file()
