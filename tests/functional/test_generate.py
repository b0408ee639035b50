# SPDX-License-Identifier: Apache-2.0
"""scripts/generate.py: what it promises, killed at any moment and started again, and on bad input."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from nemo_mcpo.rollouts.store import read_complete
from tests.support.launch import ROOT, command, environment, run, write_inputs

SCRIPT = ROOT / "scripts" / "generate.py"

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def arguments(inputs: Path, out: Path, **changes: object) -> list[str]:
    options = {
        "model": inputs / "model",
        "data": inputs / "data.jsonl",
        "format": "jsonl",
        "out": out,
        "cache-dir": inputs / "cache",
        "max-prompt-length": 64,
        "max-tokens": 24,
        "batch-size": 8,
    } | changes
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def test_killed_and_started_again(inputs, tmp_path):
    whole = run(SCRIPT, arguments(inputs, tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr[-3000:]
    samples = list(read_complete(tmp_path / "whole"))
    assert len(samples) == len({sample.key for sample in samples}) == 24 * 6
    assert "drawn again" in whole.stdout

    shard = tmp_path / "killed" / "samples-00000.jsonl"
    kills = 0
    for least in (1, 40, 100):  # lines that are there when the process is killed
        process = subprocess.Popen(
            command(SCRIPT, arguments(inputs, tmp_path / "killed")), env=environment(), stderr=subprocess.DEVNULL
        )
        while process.poll() is None and (not shard.exists() or shard.read_bytes().count(b"\n") < least):
            time.sleep(0.01)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills == 3
    again = run(SCRIPT, arguments(inputs, tmp_path / "killed"))
    assert again.returncode == 0, again.stderr[-3000:]
    assert (tmp_path / "killed" / "complete.jsonl").read_bytes() == (
        tmp_path / "whole" / "complete.jsonl"
    ).read_bytes()
    assert sorted(shard.read_text().splitlines()) == sorted(
        (tmp_path / "whole" / shard.name).read_text().splitlines()
    )  # nothing was generated twice


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seed": 2}, "another sampling"), ({"data": "none.jsonl"}, "none.jsonl")],
)
def test_another_run_in_the_same_directory_is_refused(inputs, tmp_path_factory, changes, message):
    out = tmp_path_factory.getbasetemp() / "refused"
    few = {"temperatures": 1.0, "samples": 1, "max-tokens": 2}
    if not out.exists():
        assert run(SCRIPT, arguments(inputs, out, **few)).returncode == 0
    done = run(SCRIPT, arguments(inputs, out, **few | changes))
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr.split(message)[0]
