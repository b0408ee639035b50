# SPDX-License-Identifier: Apache-2.0
"""Requests to stop, by signals and by the clock; signals are sent to processes of their own."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time

import pytest

from nemo_mcpo.platform import stopping
from nemo_mcpo.platform.stopping import JOB_START, StopRequest, job_deadline

HEAD = """
import multiprocessing, os, signal, sys, time
from nemo_mcpo.platform import command, stopping
from nemo_mcpo.platform.stopping import StopRequest
stop = StopRequest()
def main(argv):
"""


def ended(body: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose ``main`` has this body."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    program = f"{HEAD}{lines}command.run_command(main)"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM", "SIGINT"])
def test_a_signal_is_recorded(name):
    done = ended(f"stop.listen()\nos.kill(os.getpid(), signal.{name})\nprint(stop.reason())")
    assert (done.returncode, done.stdout) == (0, f"{name}\n")


def test_the_exit_code_and_one_line():
    done = ended("raise stopping.StoppedEarly('SIGUSR1, after step 7')")
    assert done.returncode == 75
    assert done.stderr == "stopped early, everything is saved: SIGUSR1, after step 7\n"


def test_the_second_ctrl_c_interrupts():
    press = "os.kill(os.getpid(), signal.SIGINT)"
    body = f"stop.listen()\n{press}\n{press}\nprint(stop.reason())\nstop._pressed -= 10.0\n{press}"
    done = ended(body)  # the second one is torchrun's copy of the first
    assert (done.returncode, done.stdout) == (130, "SIGINT\n")


def test_leaving_at_once_runs_finally_blocks():
    done = ended(
        "stop.leave_at_once()\ntry:\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(60)\n"
        "finally:\n    os.kill(os.getpid(), signal.SIGTERM)\n    print('cleaned')"
    )
    assert (done.returncode, done.stdout) == (75, "cleaned\n")


def test_an_earlier_signal_is_not_lost():
    done = ended("stop.listen()\nos.kill(os.getpid(), signal.SIGUSR1)\nstop.leave_at_once()\nprint('no')")
    assert (done.returncode, done.stdout) == (75, "")


def test_a_signal_takes_its_default_action_in_a_fork():
    done = ended(
        "stop.listen()\nchild = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))\n"
        "child.start()\ntime.sleep(0.5)\nchild.terminate()\nchild.join()\nprint(child.exitcode, stop.reason())"
    )
    assert done.stdout == f"{-signal.SIGTERM} None\n"


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM", "SIGINT"])
def test_a_shielded_fork_finishes(name):
    """The writers of a checkpoint must finish when a scheduler or a terminal signals all processes."""
    done = ended(
        "def write():\n    time.sleep(1.0)\n    os._exit(7)\n"
        "stop.listen()\n"
        "with stopping.shielded_forks():\n"
        "    child = multiprocessing.get_context('fork').Process(target=write)\n"
        "    child.start()\n    time.sleep(0.3)\n"
        f"    for process in (child.pid, os.getpid()):\n        os.kill(process, signal.{name})\n"
        "    child.join()\n"
        "print(child.exitcode, stop.reason())"
    )
    assert done.stdout == f"7 {name}\n"


def test_the_clock():
    stop = StopRequest()
    assert stop.reason(1e9) is None
    stop.deadline = time.time() + 100.0
    assert stop.reason() is None and stop.reason(needed_seconds=50.0) is None
    assert stop.reason(needed_seconds=150.0) == "the job's time is used up"


def test_the_budget_counts_from_the_start_of_the_job():
    assert job_deadline(None, {}) == math.inf
    assert job_deadline(60.0, {JOB_START: "1000.5", "SLURM_JOB_START_TIME": "7"}) == 1060.5
    assert job_deadline(60.0, {"SLURM_JOB_START_TIME": "1000"}) == 1060.0
    assert job_deadline(60.0, {}) == pytest.approx(stopping._PROCESS_START + 60.0)
