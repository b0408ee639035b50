# SPDX-License-Identifier: Apache-2.0
"""Job scripts on a real Slurm: stopped, killed, drained and hung jobs lose nothing."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_mcpo.models.checkpoint_files import finished_checkpoints
from tests.support.jobs import JOB, TWO_NODES, program, ranks, said, site, submit
from tests.support.launch import metrics, overrides, train, without_time
from tests.support.slurm import wait_for

pytestmark = [pytest.mark.functional, pytest.mark.slurm]
PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "1"))
"""Number of preemptions at random moments; ten take ten minutes."""
STEPS = 6 if PREEMPTIONS == 1 else 15 * PREEMPTIONS
LENGTH = (f"trainer.mcpo.max_steps={STEPS}", f"trainer.mcpo.max_epochs={STEPS}")
"""An epoch has six steps; the first step of a start begins after almost twenty seconds."""


@pytest.fixture(autouse=True)
def nothing_left(slurm) -> Iterator[None]:
    """A failed test leaves neither a job nor a drained node to the next one."""
    yield
    slurm.clear()


@pytest.fixture(scope="module")
def whole(slurm, inputs, tmp_path_factory) -> list[dict]:
    """The metrics of an uninterrupted job, which trains exactly as a single process does."""
    results = tmp_path_factory.mktemp("whole")
    assert slurm.wait(submit(slurm, inputs, results, *LENGTH))["JobState"] == "COMPLETED", said(results)
    lines = without_time(metrics(results / "run"))
    alone = overrides(inputs, results / "alone", trainer__mcpo__save_interval=0, trainer__mcpo__max_steps=6)
    assert train(alone).returncode == 0
    losses = [line["loss"] for line in metrics(results / "alone")]
    # The first epoch only: training amplifies the rounding differences between layouts.
    assert [line["loss"] for line in lines[:6]] == pytest.approx(losses, rel=1e-5)
    return lines


def test_preempted_killed_drained_and_without_a_controller(slurm, inputs, whole, tmp_path):
    """The run ends as if it had never been interrupted."""
    chance = random.Random(5)
    job = submit(slurm, inputs, tmp_path, *LENGTH)

    def starts() -> int:
        return int(slurm.job(job)["Restarts"])

    for number in range(PREEMPTIONS):
        wait_for(lambda number=number: f"start {number + 1}, on" in said(tmp_path), 300.0)
        time.sleep(chance.uniform(0.0, 20.0))
        slurm.call("scancel", "--batch", "--signal=USR1", str(job))
        wait_for(lambda number=number: starts() > number or slurm.job(job)["JobState"] == "COMPLETED", 300.0)
    before = starts()
    wait_for(lambda: len(ranks(tmp_path)) == 4, 300.0)
    slurm.call("scontrol", "update", "nodename=n1", "state=drain", "reason=test")  # the running job continues
    slurm.stop_controller()
    time.sleep(3.0)
    slurm.start_controller()
    wait_for(lambda: finished_checkpoints(tmp_path / "run") != [], 300.0)
    os.kill(ranks(tmp_path)[-1], signal.SIGKILL)
    wait_for(lambda: starts() > before, 300.0)
    wait_for(lambda: slurm.job(job)["JobState"] != "COMPLETING", 60.0)
    assert slurm.job(job)["JobState"] == "PENDING"  # one node is not enough
    slurm.call("scontrol", "update", "nodename=n1", "state=resume")
    assert slurm.wait(job)["JobState"] == "COMPLETED", said(tmp_path)
    assert "a rank was killed (code 137)" in said(tmp_path)
    assert without_time(metrics(tmp_path / "run")) == whole
    assert len(list((tmp_path / "run" / "logs").glob(f"{job}-*.log"))) == starts() + 1


def test_told_to_stop_before_a_rank_starts(slurm, inputs, tmp_path):
    """Stopped while the nodes are checked, the job requeues itself until MAX_RESTARTS is reached."""
    slow = program(tmp_path / "bin" / "srun", f'touch "{tmp_path}/checking"\nsleep 3\nexec /usr/bin/srun "$@"')
    (tmp_path / "site.env").write_text(f"PATH={slow.parent}:$PATH\n")
    job = submit(slurm, inputs, tmp_path, NEMO_MCPO_SITE=str(tmp_path / "site.env"), MAX_RESTARTS="1")
    for _ in range(2):
        wait_for((tmp_path / "checking").exists, 60.0)
        slurm.call("scancel", "--batch", "--signal=USR1", str(job))
        (tmp_path / "checking").unlink()
    facts = slurm.wait(job, 120.0)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "75:0", "1"), said(tmp_path)
    assert "started 2 times (MAX_RESTARTS=1); giving up" in said(tmp_path)


def test_killed_at_every_start(slurm, inputs, tmp_path):
    """A job ends when a rank is killed twice without progress in between."""
    python = program(tmp_path / "python", "kill -9 $$")
    facts = slurm.wait(submit(slurm, inputs, tmp_path, PYTHON=python), 120.0)
    assert (facts["ExitCode"], facts["Restarts"]) == ("137:0", "1")
    assert "no progress between two kills; giving up" in said(tmp_path)


def test_one_rank_fails_and_the_others_hang(slurm, inputs, tmp_path):
    """srun kills the ranks that hang; the job still counts as failed and is not requeued."""
    python = program(tmp_path / "python", '[ $SLURM_PROCID = 2 ] || sleep 100\ntouch "$NEMO_MCPO_FAILURE"\nexit 1')
    facts = slurm.wait(submit(slurm, inputs, tmp_path, PYTHON=python, WAIT_SECONDS="2"), 60.0)
    assert (facts["ExitCode"], facts["Restarts"]) == ("1:0", "0")


def test_cancelled_by_its_user(slurm, inputs, tmp_path):
    """The ranks save, and the job stays cancelled, at a site that passes no environment to jobs."""
    text = f"trap 'touch {tmp_path}/saved; exit 75' TERM USR1\ntouch {tmp_path}/up$SLURM_PROCID\nsleep 100 & wait"
    settings = site(tmp_path, PYTHON=program(tmp_path / "python", text), PATH=os.environ["PATH"])
    lines = "".join(f"export {name}={value}\n" for name, value in settings.items())
    (tmp_path / "site.env").write_text(lines)
    words = (*TWO_NODES, "--job-name=run", f"--output={tmp_path}/batch.log")
    job = slurm.submit(*words, f"--export=NEMO_MCPO_SITE={tmp_path}/site.env", str(JOB))
    wait_for(lambda: len(list(tmp_path.glob("up*"))) == 4, 60.0)
    slurm.call("scancel", str(job))
    facts = slurm.wait(job, 60.0)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")
    assert (tmp_path / "saved").exists()


def test_a_rank_that_hangs_is_named(slurm, inputs, tmp_path):
    """The hanging rank is the first one, which hosts the store that the others use."""
    job = submit(slurm, inputs, tmp_path, "trainer.distributed_timeout_minutes=0.4")
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), 300.0)
    first = next(pid for pid in ranks(tmp_path) if b"\0SLURM_PROCID=0\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(first, signal.SIGSTOP)
    wait_for(lambda: "the launch hangs" in said(tmp_path), 120.0)
    os.kill(first, signal.SIGKILL)
    facts = slurm.wait(job, 120.0)
    assert (facts["ExitCode"], facts["Restarts"]) == ("1:0", "0")
    assert "the launch hangs: rank 0's node does not answer" in said(tmp_path)
