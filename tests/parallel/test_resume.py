# SPDX-License-Identifier: Apache-2.0
"""Kill -9, then the same command: bit-identical metrics; another layout to 1e-5; another run's data refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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
    write_preferences,
)

pytestmark = pytest.mark.parallel

SETTINGS = {"model__mcpo__num_negatives": 2, "trainer__mcpo__max_steps": 6, "model__micro_batch_tokens": 32}
"""Rows of 32 tokens, so that the reference pass has many chunks."""
LAST = "step-00000006"


@pytest.fixture(scope="module")
def uninterrupted(inputs: Path) -> Path:
    """A run without interruption."""
    run = inputs / "uninterrupted"
    done = train(overrides(inputs, run, **SETTINGS))
    assert done.returncode == 0, done.stderr
    return run


def kill_when(moment: Callable[[], bool], arguments: list[str]) -> None:
    """Start training, and kill -9 its process group as soon as ``moment`` returns True."""
    process = subprocess.Popen(
        command(TRAIN, ["--config-name=tiny_cpu", *arguments]),
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    try:
        while not moment():
            assert process.poll() is None, "training ended before the moment came"
            assert time.monotonic() < deadline, "the moment did not come"
            time.sleep(0.0005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def moments(run: Path) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Moments at which a run is killed, one per start."""

    def exists(pattern: str) -> bool:
        return any(run.parent.glob(pattern))

    def steps() -> int:
        return len(metrics(run)) if (run / "metrics.jsonl").exists() else 0

    def in_reference_pass() -> bool:
        return any(log.stat().st_size for log in run.parent.glob(f"{run.name}-cache/prepared/*/reference/*.log"))

    yield "the reference pass", in_reference_pass
    yield "writing the first checkpoint", lambda: exists(f"{run.name}/checkpoints/step-00000002.incomplete/*")
    yield (
        "the step after the first checkpoint",
        lambda: exists(f"{run.name}/checkpoints/step-00000002") and steps() > 2,
    )
    yield "writing the second checkpoint", lambda: exists(f"{run.name}/checkpoints/step-00000004.incomplete/*")


def test_killed_and_continued_is_bit_identical(inputs, uninterrupted):
    run = inputs / "killed"
    arguments = overrides(inputs, run, **SETTINGS)
    for name, moment in moments(run):
        kill_when(moment, arguments)
        assert not (run / "checkpoints" / LAST).exists(), name
    done = train(arguments)
    assert done.returncode == 0, done.stderr
    assert without_time(metrics(run)) == without_time(metrics(uninterrupted))
    assert checkpoint_names(run) == checkpoint_names(uninterrupted) == ["step-00000004", LAST]
    for cached in (inputs / "uninterrupted-cache").rglob("*.log"):
        same = inputs / "killed-cache" / cached.relative_to(inputs / "uninterrupted-cache")
        assert same.read_bytes() == cached.read_bytes()


def test_a_finished_run_is_not_changed(inputs, uninterrupted):
    before = metrics(uninterrupted)
    done = train(overrides(inputs, uninterrupted, **SETTINGS), start=fork)
    assert done.returncode == 0, done.stderr
    assert metrics(uninterrupted) == before


@pytest.mark.parametrize(
    "layout",
    [
        {"model__tensor_model_parallel_size": 2},
        {"model__pipeline_model_parallel_size": 2, "model__virtual_pipeline_model_parallel_size": 2},
        {"model__optim__cpu_offload": "true"},
    ],
    ids=["tp2", "interleaved", "dp2, states on the host"],
)
def test_another_layout_continues(inputs, uninterrupted, tmp_path, layout):
    run = copy_at_step_4(uninterrupted, tmp_path / "run")
    done = train(overrides(inputs, run, **SETTINGS | layout), processes=2, start=fork)
    assert done.returncode == 0, done.stderr
    found, expected = metrics(run), metrics(uninterrupted)
    assert without_time(found[:4]) == without_time(expected[:4])
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    for ours, theirs in zip(found[4:], expected[4:], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
        assert (ours["lr"], ours["tokens"]) == (theirs["lr"], theirs["tokens"])


def copy_at_step_4(run: Path, copy: Path) -> Path:
    """Copy a run's directory and cache as of step 4, with the metrics of all steps."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns(LAST))
    shutil.copytree(run.with_name(f"{run.name}-cache"), copy.with_name(f"{copy.name}-cache"))
    return copy


def other_data(inputs: Path) -> dict[str, object]:
    return {"model__data__train": write_preferences(inputs / "other.jsonl", seed=5)}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (other_data, "another data or tokenizer"),
        (lambda inputs: {"model__seed": 99}, "another model.seed (got 99, expected 1234)"),
    ],
    ids=["data", "seed"],
)
def test_another_run_is_refused_before_anything_is_computed(inputs, uninterrupted, tmp_path, changes, reason):
    run = copy_at_step_4(uninterrupted, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.suffix in (".jsonl", ".distcp", ".json")}
    done = train(overrides(inputs, run, **SETTINGS | changes(inputs)), start=fork)
    assert done.returncode == 1
    line = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: {run / 'checkpoints' / 'step-00000004'}: ") and reason in line
    assert "exp_manager.explicit_log_dir" in line.partition("Fix: ")[2]
    assert "Traceback" not in done.stderr and "reference:" not in done.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert checkpoint_names(run) == ["step-00000004"]
