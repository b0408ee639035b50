# SPDX-License-Identifier: Apache-2.0
"""Servers that we start: readiness, foreign servers on the port, restarts, shutdown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.platform.ports import free_port
from nemo_mcpo.rollouts import server_process
from nemo_mcpo.rollouts.server_process import MAX_STARTS
from nemo_mcpo.rollouts.serving import open_serving
from tests.support.configs import server_settings
from tests.support.fake_server import Behavior, fake_server, words_of
from tests.support.online import FAKE_SERVER


def settings(**changes):
    keys = {"launcher": "transformers", "command": [sys.executable, str(FAKE_SERVER)], "ready_seconds": 20.0}
    return server_settings(**keys | changes)


def running(port: int) -> bool:
    return subprocess.run(["pgrep", "-f", f"fake_server.py.*--port {port}"], capture_output=True).returncode == 0


def test_started_killed_restarted_and_stopped(tmp_path):
    serving = open_serving(settings(replicas=2), "/policy", tmp_path)
    first, second = serving.own
    assert first.is_healthy() and second.is_healthy() and first.port != second.port
    os.kill(first._process.pid, signal.SIGKILL)
    first._process.wait()
    assert not first.is_healthy()
    serving.restart_dead()
    first.wait_until_ready(20.0)
    assert (first.starts, second.starts) == (2, 1)
    serving.close()
    assert not running(first.port) and not running(second.port)


def test_only_its_owner_reads_what_a_server_writes(tmp_path):
    serving = open_serving(settings(), "/policy", tmp_path / "logs")
    serving.close()
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "logs").glob("*.log")] == [0o600]


@pytest.fixture
def somebody_elses(monkeypatch):
    """The first port that is chosen already has a healthy server of another process."""
    behavior = Behavior(words_of, models=["other"])
    with fake_server(behavior) as url:
        taken = int(url.split(":")[2].split("/")[0])
        ports = iter([taken])
        monkeypatch.setattr(server_process, "free_port", lambda: next(ports, None) or free_port())
        yield taken


def test_somebody_else_s_server_does_not_pass_as_ours(somebody_elses, tmp_path, capsys):
    """Our server cannot listen there, exits, and is restarted on another port."""
    serving = open_serving(settings(), "/policy", tmp_path)
    (server,) = serving.own
    assert (server.starts, server.is_healthy()) == (2, True) and server.port != somebody_elses
    assert f"port {somebody_elses} is taken by another process" in capsys.readouterr().out
    assert serving.pool.urls == [f"http://127.0.0.1:{server.port}/v1"]
    serving.close()


def test_somebody_else_answers_while_ours_still_loads(somebody_elses, tmp_path):
    loading = (
        f"import runpy, sys, time; time.sleep(3600) if '{somebody_elses}' in sys.argv else None; "
        f"sys.argv[0] = {str(FAKE_SERVER)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    serving = open_serving(settings(command=[sys.executable, "-c", loading]), "/policy", tmp_path)
    (server,) = serving.own
    assert (server.starts, server.is_healthy()) == (2, True) and server.port != somebody_elses
    serving.close()


def test_a_prefix_before_the_program(tmp_path):
    """With a prefix, the server may run in a process that is not ours, so the port's owner is not checked."""
    serving = open_serving(settings(prefix=["env", "FAKE=1"]), "/policy", tmp_path)
    (server,) = serving.own
    assert not server.runs_here and server.is_healthy() and server._process.args[:2] == ["env", "FAKE=1"]
    serving.close()


def test_a_server_that_ends_before_it_is_ready(tmp_path, capsys):
    failing = settings(command=[sys.executable, "-c", "print('no memory'); raise SystemExit(3)"])
    with pytest.raises(RolloutError, match="exited with code 3 before it was ready"):
        open_serving(failing, "/policy", tmp_path)
    assert "no memory" in capsys.readouterr().out


def test_a_server_that_is_killed_while_it_loads_is_started_again(tmp_path):
    mark = tmp_path / "killed"
    program = (
        "import os, pathlib, runpy, signal, sys\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        "if not mark.exists():\n    mark.touch()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"sys.argv[0] = {str(FAKE_SERVER)!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    serving = open_serving(settings(command=[sys.executable, "-c", program]), "/policy", tmp_path)
    assert [server.starts for server in serving.own] == [2]
    serving.close()


def test_a_server_that_is_never_ready(tmp_path):
    sleeping = settings(command=[sys.executable, "-c", "import time; time.sleep(60)"], ready_seconds=0.5)
    started = time.monotonic()
    with pytest.raises(RolloutError, match=r"not ready within 0 s|not ready within 1 s"):
        open_serving(sleeping, "/policy", tmp_path)
    assert time.monotonic() - started < 20.0


def test_no_such_program(tmp_path):
    with pytest.raises(RolloutError) as caught:
        open_serving(settings(command=["/no/such/program"]), "/policy", tmp_path)
    assert caught.value.where == "server.command" and caught.value.got.startswith("/no/such/program: ")


def test_a_server_that_dies_again_and_again(tmp_path):
    serving = open_serving(settings(), "/policy", tmp_path)
    (server,) = serving.own
    with pytest.raises(RolloutError, match=f"exited {MAX_STARTS} times"):
        for _ in range(MAX_STARTS):
            server._process.kill()
            server._process.wait()
            serving.restart_dead()
    serving.close()
