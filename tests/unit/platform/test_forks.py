# SPDX-License-Identifier: Apache-2.0
"""A fork behaves like the script in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

# The parent of the forks is a separate process, since pytest runs threads.
PARENT = """
import json, os, signal, sys, time
from nemo_mcpo.platform.children import stop_child
from nemo_mcpo.platform.forks import preload, start_fork
from nemo_mcpo.platform.launch import run_processes
from nemo_mcpo.platform.stopping import StopRequest

signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
preload(["decimal"])
script = [sys.executable, sys.argv[1]]
"""


def run_parent(tmp_path, script: str, parent: str) -> str:
    """Return what a parent process prints that runs ``parent`` with ``script`` as its command."""
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    program = PARENT + textwrap.dedent(parent)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_fork_runs_the_script(tmp_path):
    """Arguments, environment, module path, name, session, output and threads are the script's; modules are loaded."""
    (tmp_path / "beside.py").write_text("VALUE = 7")
    script = """
        import json, os, sys
        loaded = "torch" in sys.modules
        import beside, torch
        known = [sys.argv[1:], os.environ.get("ONLY"), os.environ.get("HOME"), beside.VALUE, __name__]
        print(json.dumps([*known, os.getsid(0) == os.getpid(), torch.get_num_threads(), loaded, sys.stdin.read()]))
    """
    parent = f"""
        preload(["torch"])
        own = {{"ONLY": "x", "OMP_NUM_THREADS": "2"}}
        with open({str(tmp_path / "log")!r}, "w") as log:
            code = start_fork([*script, "a", "b"], environment=own, output=log).wait()
        print(code, os.environ["HOME"] != "", sys.argv[1].endswith("script.py"))
    """
    assert run_parent(tmp_path, script, parent) == "0 True True\n"
    assert json.loads((tmp_path / "log").read_text()) == [
        ["a", "b"], "x", None, 7, "__main__", True, 2, True, "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("raise SystemExit(75)", 75),
        ("sys.exit('no room')", 1),
        ("raise ValueError('no room')", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("os.kill(os.getpid(), signal.SIGTERM)", -15),  # not the parent's handler
    ],
)
def test_exit_codes(tmp_path, ending, code):
    said = run_parent(tmp_path, f"import os, signal, sys\n{ending}", "print(start_fork(script).wait())")
    assert said.splitlines()[-1] == str(code)


def test_functions_registered_for_the_end_run_in_the_fork_alone(tmp_path):
    script = "import atexit; atexit.register(print, 'fork ends'); print('fork')"
    parent = """
        import atexit
        atexit.register(print, "parent ends")
        start_fork(script).wait()
        print("parent")
    """
    assert run_parent(tmp_path, script, parent).split("\n") == ["fork", "fork ends", "parent", "parent ends", ""]


def test_ranks_of_a_launch(tmp_path):
    script = f"""
        import os
        open(f"{tmp_path}/{{os.environ['RANK']}}-of-{{os.environ['WORLD_SIZE']}}", "w")
        raise SystemExit(4 if os.environ["RANK"] == "1" else 0)
    """
    said = run_parent(tmp_path, script, "print(run_processes(script, 2, StopRequest(), start_fork))")
    assert said == "4\n"
    assert (tmp_path / "0-of-2").exists() and (tmp_path / "1-of-2").exists()


def test_a_fork_and_what_it_started_are_stopped(tmp_path):
    script = f"""
        import os, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
        os.rename({str(tmp_path / "pid")!r}, {str(tmp_path / "ready")!r})
        time.sleep(60)
    """
    parent = f"""
        fork = start_fork(script)
        while not os.path.exists({str(tmp_path / "ready")!r}):
            time.sleep(0.02)
        assert fork.poll() is None
        stop_child(fork)
        print(fork.returncode)
    """
    assert run_parent(tmp_path, script, parent) == "-15\n"
    pid = (tmp_path / "ready").read_text()
    state = subprocess.run(["ps", "-o", "state=", "-p", pid], capture_output=True, text=True).stdout.strip()
    assert state in ("", "Z")  # gone, or not yet reaped


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_fork_ends_with_a_parent_that_is_killed(tmp_path):
    script = f"""
        import os, time
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
        os.rename({str(tmp_path / "pid")!r}, {str(tmp_path / "ready")!r})
        time.sleep(60)
    """
    parent = f"""
        if os.fork() == 0:
            start_fork(script)
            while not os.path.exists({str(tmp_path / "ready")!r}):
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
        os.wait()
        pid = open({str(tmp_path / "ready")!r}).read()
        for _ in range(500):
            states = os.popen(f"ps -o state= -p {{pid}}").read().strip()
            if states in ("", "Z"):
                break
            time.sleep(0.02)
        print(repr(states) in ("''", "'Z'"))
    """
    assert run_parent(tmp_path, script, parent) == "True\n"
