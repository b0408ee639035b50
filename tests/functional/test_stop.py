# SPDX-License-Identifier: Apache-2.0
"""Training that is asked to stop: it saves after the current step, exits with 75, and resumes by the same command."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.support.launch import (
    TRAIN,
    checkpoint_names,
    command,
    environment,
    fork,
    metrics,
    overrides,
    train,
    without_time,
)

pytestmark = pytest.mark.functional
STEPS = {"trainer__mcpo__max_steps": 4, "trainer__mcpo__save_interval": 0}
"""If the run is not stopped, its only checkpoint is the last one."""


@pytest.fixture(scope="module")
def whole(inputs) -> list[dict]:
    """The metrics of an uninterrupted run."""
    assert train(overrides(inputs, inputs / "whole", **STEPS)).returncode == 0
    return without_time(metrics(inputs / "whole"))


def started(arguments: list[str], sign: str, processes: int = 1) -> subprocess.Popen[str]:
    """Start a run and wait until it has written ``sign`` to standard error."""
    process = subprocess.Popen(
        command(TRAIN, ["--config-name=tiny_cpu", *arguments], processes),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if sign in line:
            return process
    raise AssertionError("".join(lines))


def test_stopped_by_signals_and_by_the_clock(inputs, whole, tmp_path):
    run = tmp_path / "run"
    arguments = overrides(inputs, run, **STEPS)
    process = started(arguments, "preparing")
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 75, errors
    assert "stopped early, everything is saved: SIGTERM, while computing reference log-probs" in errors
    assert any((tmp_path / "run-cache").glob("prepared/*/reference/*"))

    done = train([*arguments, "exp_manager.max_time_per_run='00:00:00:01'"], start=fork)
    assert done.returncode == 75, done.stderr
    assert "stopped early, everything is saved: the job's time is used up, after step 1" in done.stderr
    assert checkpoint_names(run) == ["step-00000001"]

    process = started(arguments, "resuming from step 1")
    process.send_signal(signal.SIGUSR1)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 75, errors
    assert "stopped early, everything is saved: SIGUSR1, after step 2" in errors
    assert checkpoint_names(run) == ["step-00000001", "step-00000002"]

    assert train(arguments, start=fork).returncode == 0
    assert without_time(metrics(run)) == whole


@pytest.mark.parallel
def test_one_rank_that_is_asked_stops_all(inputs, whole, tmp_path):
    run = tmp_path / "run"
    arguments = overrides(inputs, run, **STEPS, model__tensor_model_parallel_size=2)
    process = started(arguments, "preparing", processes=2)
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(ranks[1]), signal.SIGUSR1)
    errors = process.communicate(timeout=300)[1]
    assert "stopped early, everything is saved: another process was asked to stop" in errors
    assert errors.count("exitcode  : 75") == 2
    assert train(arguments, processes=2, start=fork).returncode == 0
    assert [line["loss"] for line in metrics(run)] == pytest.approx([line["loss"] for line in whole], rel=1e-5)


@pytest.mark.parallel
def test_a_rank_that_hangs_is_named(inputs, tmp_path):
    arguments = overrides(inputs, tmp_path / "run", **STEPS, model__tensor_model_parallel_size=2)
    process = started([*arguments, "trainer.distributed_timeout_minutes=0.15"], "preparing", processes=2)
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(ranks[1]), signal.SIGSTOP)
    assert process.stderr is not None
    said = next(line for line in process.stderr if "the launch hangs" in line)
    os.kill(int(ranks[1]), signal.SIGKILL)  # torchrun would wait for it for half a minute
    assert said.startswith("error: the launch hangs: no heartbeat from rank 1 (") and said.count("last at ") == 1
    assert "the launch hangs" not in process.communicate(timeout=60)[1]
    assert process.returncode == 1
