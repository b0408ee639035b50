# SPDX-License-Identifier: Apache-2.0
"""Servers that we start: their command lines and environments, ready or not, dead and started again, stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_mcpo.errors import ConfigError, RolloutError
from nemo_mcpo.rollouts.launchers import COMMANDS, server_environment, trtllm_files
from nemo_mcpo.rollouts.server_process import MAX_STARTS
from nemo_mcpo.rollouts.serving import open_serving
from tests.support.configs import online
from tests.support.online import FAKE_SERVER


def settings(**changes):
    keys = {"launcher": "transformers", "command": [sys.executable, str(FAKE_SERVER)], "ready_seconds": 20.0} | changes
    return online({f"rollouts.server.{name}": value for name, value in keys.items()}).rollouts.server


def test_the_command_line_of_trtllm_serve():
    chosen = settings(
        command=["trtllm-serve"], tensor_parallel_size=4, pipeline_parallel_size=2, arguments=["--trust_remote_code"]
    )
    line = (
        "trtllm-serve /policy --host 127.0.0.1 --port 8001 --backend pytorch --tp_size 4 --pp_size 2 "
        "--max_batch_size 256 --max_num_tokens 8192 --max_seq_len 192 --kv_cache_free_gpu_memory_fraction 0.9 "
        "--trust_remote_code"
    )
    assert " ".join(COMMANDS["trtllm"]("/policy", 8001, chosen)) == line


def test_an_fp8_cache_stands_in_a_file(tmp_path):
    assert trtllm_files(tmp_path, settings()) == []
    option, path = trtllm_files(tmp_path, settings(kv_cache_dtype="fp8"))
    assert option == "--extra_llm_api_options"
    # A file's section replaces the flags': the fraction must stand in it too.
    assert json.loads(Path(path).read_text())["kv_cache_config"] == {"dtype": "fp8", "free_gpu_memory_fraction": 0.9}


LAUNCHED = ("PMIX_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_X", "SLURM_JOB_ID", "RANK", "WORLD_SIZE")


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, []),
        ({"launcher": "trtllm", "command": ["srun", "trtllm-serve"], "pipeline_parallel_size": 9}, ["SLURM_JOB_ID"]),
    ],
)
def test_variables_of_launchers_are_left_out(monkeypatch, changes, kept):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("MY_SLURM", "stays")
    for name in LAUNCHED:
        monkeypatch.setenv(name, "1")
    environment = server_environment(settings(**changes), 0)
    assert environment["MY_SLURM"] == "stays" and "PATH" in environment
    assert [name for name in LAUNCHED if name in environment] == kept


@pytest.mark.parametrize(
    ("seen", "changes", "names"),
    [
        ("4,5,6,7", {"launcher": "trtllm", "tensor_parallel_size": 2}, ["4,5", "6,7"]),
        ("GPU-1a,MIG-2b", {"launcher": "trtllm"}, ["GPU-1a", "MIG-2b"]),
        ("0,1", {}, ["0", "1"]),
    ],
)
def test_replicas_have_gpus_of_their_own(monkeypatch, seen, changes, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    chosen = settings(replicas=2, **changes)
    assert [server_environment(chosen, replica)["CUDA_VISIBLE_DEVICES"] for replica in range(2)] == names
    with pytest.raises(ConfigError, match=r"server\.replicas: too few GPUs"):
        server_environment(chosen, 2)


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


def test_a_server_that_ends_before_it_is_ready(tmp_path, capsys):
    failing = settings(command=[sys.executable, "-c", "print('no memory'); raise SystemExit(3)"])
    with pytest.raises(RolloutError, match="ended with code 3 before it was ready"):
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
    with pytest.raises(RolloutError, match=r"server\.command: the server's program cannot be started"):
        open_serving(settings(command=["/no/such/program"]), "/policy", tmp_path)


def test_a_server_that_dies_again_and_again(tmp_path):
    serving = open_serving(settings(), "/policy", tmp_path)
    (server,) = serving.own
    with pytest.raises(RolloutError, match=f"ended {MAX_STARTS} times"):
        for _ in range(MAX_STARTS):
            server._process.kill()
            server._process.wait()
            serving.restart_dead()
    serving.close()
