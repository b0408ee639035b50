# SPDX-License-Identifier: Apache-2.0
"""Processes of a launch: their environment, their exit code, and their end with their parent's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from nemo_mcpo.platform.launch import run_processes
from nemo_mcpo.platform.stopping import StopRequest

WRITE = """
import json, os, sys
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
json.dump({name: os.environ.get(name) for name in names}, open(f"{sys.argv[1]}/{os.environ.get('RANK')}.json", "w"))
"""


def test_ranks_find_each_other(tmp_path):
    assert run_processes([sys.executable, "-c", WRITE, str(tmp_path)], 2, StopRequest()) == 0
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert (first["RANK"], second["RANK"], first["WORLD_SIZE"]) == ("0", "1", "2")
    assert first["MASTER_PORT"] == second["MASTER_PORT"]


def test_one_process_has_no_ranks(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert run_processes([sys.executable, "-c", WRITE, str(tmp_path)], 1, StopRequest()) == 0
    assert set(json.loads((tmp_path / "None.json").read_text()).values()) == {None}


@pytest.mark.parametrize(
    ("ending", "code"), [("raise SystemExit(2)", 2), ("import signal; os.kill(os.getpid(), signal.SIGKILL)", -9)]
)
def test_one_failure_stops_all(tmp_path, ending, code):
    slept = tmp_path / "slept"
    program = (
        f"import os, pathlib, time\nif os.environ['RANK'] == '1':\n    {ending}\n"
        f"time.sleep(60)\npathlib.Path({str(slept)!r}).touch()"
    )
    assert run_processes([sys.executable, "-c", program], 2, StopRequest()) == code
    assert not slept.exists()  # the other one was stopped, not waited for


def test_a_stop_is_passed_on(tmp_path):
    program = "import signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75)); time.sleep(60)"
    stop = StopRequest()
    stop.deadline = time.time() + 3.0
    assert run_processes([sys.executable, "-c", program], 2, stop) == 75


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_children_end_with_a_parent_that_is_killed(tmp_path):
    mark = f"sleeper-{os.getpid()}"
    parent = (
        "from nemo_mcpo.platform.launch import run_processes\n"
        "from nemo_mcpo.platform.stopping import StopRequest\nimport sys\n"
        f"run_processes([sys.executable, '-c', 'import time; time.sleep(60)', '{mark}'], 2, StopRequest())"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    deadline = time.monotonic() + 20.0

    def children() -> int:
        found = subprocess.run(["pgrep", "-fc", f"sleep.60. {mark}"], capture_output=True, text=True).stdout
        return int(found)

    while children() < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children() == 2
    process.kill()
    process.wait()
    while children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children() == 0
