# SPDX-License-Identifier: Apache-2.0
"""The job scripts on a real Slurm: several nodes, preempted, killed, and given bad input."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.configs import ROOT
from tests.support.launch import environment, metrics, overrides, train, without_time
from tests.support.online import online_overrides
from tests.support.slurm import Slurm, wait_for

pytestmark = [pytest.mark.functional, pytest.mark.slurm]
JOB = ROOT / "slurm" / "mcpo_llama8b.sh"
ONLINE_JOB = ROOT / "slurm" / "onmcpo_llama8b.sh"
STEPS = {"trainer__mcpo__max_steps": 12, "trainer__mcpo__save_interval": 5}
LAYOUT = {"model__tensor_model_parallel_size": 2}


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    root = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    cluster = Slurm(root)
    yield cluster
    cluster.stop()
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def whole(inputs) -> list[dict]:
    """The losses of one process that nobody interrupts."""
    assert train(overrides(inputs, inputs / "whole", **STEPS)).returncode == 0
    return without_time(metrics(inputs / "whole"))


def arguments(inputs: Path, results: Path, **changes: object) -> list[str]:
    keys = overrides(inputs, results / "run", **STEPS, **changes)
    return [key for key in keys if not key.startswith("exp_manager.explicit_log_dir")]


def site(results: Path, **changes: str) -> dict[str, str]:
    """What slurm/site.env says, for two processes a node."""
    own = {"CONFIG": "tiny_cpu", "TASKS_PER_NODE": "2", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return own | {"NEMO_MCPO_RESULTS": str(results), "NEMO_MCPO_SITE": "/none"} | changes


def submit(slurm: Slurm, inputs: Path, results: Path, *options: str, **changes: str) -> int:
    log = f"--output={results}/batch.log"
    words = ("--job-name=run", "--nodes=2", "--gres=none", log, *options, str(JOB))
    return slurm.submit(*words, *arguments(inputs, results, **LAYOUT), **site(results, **changes))


def losses(lines: list[dict]) -> list[float]:
    return [line["loss"] for line in lines]


def test_preempted_then_killed_then_submitted_again(slurm, inputs, whole, tmp_path):
    """Two nodes of two processes: told to stop, it requeues itself; a rank dies, no restart is left; then the end."""
    lines = tmp_path / "run" / "metrics.jsonl"
    job = submit(slurm, inputs, tmp_path, MAX_RESTARTS="1")
    wait_for(lambda: any(tmp_path.glob("run-cache/prepared/*/reference/*")), 120.0)
    slurm.call("scancel", "--batch", "--signal=USR1", str(job))
    wait_for(lambda: slurm.job(job)["Restarts"] == "1", 120.0)
    saved = lines.read_text().count("\n") if lines.exists() else 0
    wait_for(lambda: lines.exists() and lines.read_text().count("\n") > saved, 180.0)
    ranks = subprocess.run(["pgrep", "-f", f"train_gpt_mcpo.py.*{tmp_path}"], capture_output=True, text=True).stdout
    os.kill(int(ranks.split()[-1]), signal.SIGKILL)
    facts = slurm.wait(job)
    said = (tmp_path / "batch.log").read_text()
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "137:0", "1"), said
    assert "asked to stop" in said and "start 2, on n[0-1]" in said
    assert "a rank was killed (code 137)" in said and "not once more" in said
    assert len(list((tmp_path / "run" / "logs").glob(f"{job}-[01].log"))) == 2

    job = submit(slurm, inputs, tmp_path)
    assert slurm.wait(job)["JobState"] == "COMPLETED", (tmp_path / "batch.log").read_text()
    assert losses(metrics(tmp_path / "run")) == pytest.approx(losses(whole), rel=1e-5)


def test_told_to_stop_before_a_rank_starts(slurm, inputs, tmp_path):
    """While the nodes are checked: it requeues itself, and then runs to its end."""
    slow = tmp_path / "bin" / "srun"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\ntouch "{tmp_path}/checking"\nsleep 3\nexec /usr/bin/srun "$@"\n')
    slow.chmod(0o755)
    (tmp_path / "site.env").write_text(f"PATH={slow.parent}:$PATH\n")
    job = submit(slurm, inputs, tmp_path, NEMO_MCPO_SITE=str(tmp_path / "site.env"))
    wait_for(lambda: (tmp_path / "checking").exists(), 60.0)
    slurm.call("scancel", "--batch", "--signal=USR1", str(job))
    facts = slurm.wait(job)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), (tmp_path / "batch.log").read_text()


def test_killed_at_every_start(slurm, inputs, tmp_path):
    """A rank that is killed twice with nothing saved in between ends the job."""
    (tmp_path / "python").write_text("#!/bin/sh\nkill -9 $$\n")
    (tmp_path / "python").chmod(0o755)
    job = submit(slurm, inputs, tmp_path, PYTHON=str(tmp_path / "python"))
    facts = slurm.wait(job, 60.0)
    assert (facts["ExitCode"], facts["Restarts"]) == ("137:0", "1")
    assert "killed twice with nothing saved in between" in (tmp_path / "batch.log").read_text()


ON_ONE_NODE = ("--nodes=1", "--gres=none")
TRAINER_AND_SERVERS_APART = ("--nodes=1", "--gres=none", ":", "--nodes=1", "--gres=none")


@pytest.mark.parametrize("layout", [ON_ONE_NODE, TRAINER_AND_SERVERS_APART], ids=["one node", "two groups"])
def test_an_online_run(slurm, inputs, tmp_path, layout):
    """Stage after stage, each a step of the job; a job that is submitted again finds everything done."""
    keys = online_overrides(inputs, tmp_path / "run", trainer__mcpo__max_steps=2, **LAYOUT)
    keys = [key for key in keys if not key.startswith(("exp_manager.explicit_log_dir", "onmcpo.segments"))]
    settings = site(tmp_path, CONFIG="gpt_onmcpo", SEGMENTS="1", PYTHONPATH=environment()["PYTHONPATH"])
    log = tmp_path / "batch.log"
    job = slurm.submit("--job-name=run", f"--output={log}", *layout, str(ONLINE_JOB), *keys, **settings)
    assert slurm.wait(job)["JobState"] == "COMPLETED", log.read_text()
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2]
    assert "segment 1 of 1: judge" in log.read_text()

    job = slurm.submit("--job-name=run", f"--output={log}", *layout, str(ONLINE_JOB), *keys, **settings)
    assert slurm.wait(job, 60.0)["JobState"] == "COMPLETED", log.read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CONTAINER_IMAGE": "image.sqsh"}, "nothing here can run CONTAINER_IMAGE=image.sqsh"),
        ({"TASKS_PER_NODE": "0"}, "this node has no GPUs"),
    ],
)
def test_bad_sites(slurm, inputs, tmp_path, changes, message):
    job = submit(slurm, inputs, tmp_path, **changes)
    assert slurm.wait(job, 30.0)["ExitCode"] == "2:0"
    assert f"error: {message}" in (tmp_path / "batch.log").read_text()


def test_the_plan_outside_slurm(inputs, tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)} | site(tmp_path)
    words = ["bash", str(JOB), "--dry-run", "model.optim.lr=1e-6"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train_gpt_mcpo.py --config-name tiny_cpu" in done.stdout and done.stdout.endswith("model.optim.lr=1e-6 \n")


@pytest.mark.parametrize("script", sorted(ROOT.glob("slurm/*_*.sh")), ids=lambda path: path.name)
def test_slurm_takes_every_script(slurm, script):
    slurm.call("sbatch", "--test-only", str(script))
