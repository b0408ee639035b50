# SPDX-License-Identifier: Apache-2.0
"""The online job as users start it, without CONFIG: servers on the job's GPUs, in their own image, and checked.

A program that takes the command line of ``trtllm-serve`` stands for it; GPUs and pyxis are stand-ins too.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.configs import ROOT
from tests.support.jobs import program, said
from tests.support.launch import environment, metrics
from tests.support.online import online_overrides
from tests.support.slurm import Slurm

pytestmark = [pytest.mark.functional, pytest.mark.slurm]
JOB = str(ROOT / "slurm" / "onmcpo_llama8b.sh")
ONE_NODE = ("--nodes=1", "--gres=gpu:8")

SERVER = f"""\
echo "step=$SLURM_STEP_ID image=$FAKEPYXIS_IMAGE gpus=$CUDA_VISIBLE_DEVICES token=$HF_TOKEN" \\
    >>"$NEMO_MCPO_RESULTS/servers"
exec {sys.executable} {ROOT}/tests/support/trtllm_stand_in.py "$@"
"""
PYTHON = f"""\
echo "step=$SLURM_STEP_ID image=$FAKEPYXIS_IMAGE" >>"$NEMO_MCPO_RESULTS/stages"
exec {sys.executable} "$@"
"""


def site(results: Path, **changes: str) -> dict[str, str]:
    """A site with ``trtllm-serve`` in its PATH, whose jobs have a secret in their environment."""
    (results / "site.env").write_text(f"PATH={results}/bin:$PATH\nexport HF_TOKEN=s3cret\n")
    own = {"PYTHON": str(program(results / "python", PYTHON)), "NEMO_MCPO_SITE": str(results / "site.env")}
    own |= {"NEMO_MCPO_RESULTS": str(results), "SEGMENTS": "1", "TASKS_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
    return own | {"PYTHONPATH": environment()["PYTHONPATH"]} | changes


def keys(inputs: Path, results: Path, **changes: object) -> list[str]:
    """Overrides for one segment of two steps, with answers and verdicts from servers."""
    judge = {"judge__kind": "openai", "judge__server__model": inputs / "model", "judge__server__max_seq_len": 4096}
    common = {"trainer__mcpo__max_steps": 2, "trainer__accelerator": "auto", "model__tensor_model_parallel_size": 2}
    words = online_overrides(inputs, results / "run", **(common | judge | changes))
    dropped = ("exp_manager.explicit_log_dir", "onmcpo.segments", "model=tiny", "judge.rule")
    return ["model=tiny", *(word for word in words if not word.startswith(dropped))]


def submit(slurm: Slurm, inputs: Path, results: Path, *more: str, **changes: str) -> int:
    words = ("--job-name=run", *ONE_NODE, f"--output={results}/batch.log", JOB)
    return slurm.submit(*words, *keys(inputs, results), *more, **site(results, **changes))


def noted(path: Path) -> list[dict[str, str]]:
    """What each program reported about its environment, in GPU order."""
    found = [dict(word.split("=") for word in line.split()) for line in path.read_text().splitlines()]
    return sorted(found, key=lambda words: words.get("gpus", ""))


def test_servers_in_an_image_of_their_own(with_pyxis, inputs, tmp_path):
    """Each server is its own step with a GPU and no secrets, and ends with the stage that requested it."""
    program(tmp_path / "bin" / "trtllm-serve", SERVER)
    images = {"CONTAINER_IMAGE": "trainer.sqsh", "SERVER_IMAGE": "trtllm.sqsh"}
    job = submit(with_pyxis, inputs, tmp_path, **images)
    assert with_pyxis.wait(job)["JobState"] == "COMPLETED", said(tmp_path)
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2]
    assert "rollouts.server: GPU memory is unknown here" in said(tmp_path)
    stages, servers = noted(tmp_path / "stages"), noted(tmp_path / "servers")
    assert {stage["image"] for stage in stages} == {"trainer.sqsh"}
    steps = {server.pop("step") for server in servers}
    assert len(steps) == 3 and not steps & {stage["step"] for stage in stages}
    assert servers == [{"image": "trtllm.sqsh", "gpus": gpu, "token": ""} for gpu in "001"]
    assert list((tmp_path / "run" / "logs").glob("*.servers")) == []
    logs = sorted((tmp_path / "run" / "segments" / "0" / "logs").glob("*/server-*.log"))
    assert len(logs) == 3 and {log.stat().st_mode & 0o777 for log in logs} == {0o600}


@pytest.mark.parametrize(
    ("more", "where", "got"),
    [
        ((), "rollouts.server.command", "trtllm-serve"),
        (("rollouts.server.replicas=9",), "rollouts.server.replicas", "9 of 1"),
    ],
)
def test_mistakes_end_the_job_before_its_first_stage(slurm, inputs, tmp_path, more, where, got):
    facts = slurm.wait(submit(slurm, inputs, tmp_path, *more), 120.0)
    assert (facts["ExitCode"], facts["Restarts"]) == ("2:0", "0"), said(tmp_path)
    assert re.search(rf"{re.escape(where)}: .*\(got {got}", said(tmp_path))
    assert not (tmp_path / "run" / "segments").exists()


def test_a_program_that_the_servers_image_lacks(with_pyxis, inputs, tmp_path):
    facts = with_pyxis.wait(submit(with_pyxis, inputs, tmp_path, SERVER_IMAGE="trtllm.sqsh"), 120.0)
    assert facts["ExitCode"] == "2:0", said(tmp_path)
    assert "rollouts.server.prefix: program not found behind the prefix" in said(tmp_path)


def test_the_plan(inputs, tmp_path):
    """Outside of Slurm the plan checks models and sizes, and fails on a mistake."""
    own = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)} | site(tmp_path)

    def plan(*more: str) -> subprocess.CompletedProcess[str]:
        words = ["bash", JOB, "--dry-run", *keys(inputs, tmp_path), *more]
        return subprocess.run(words, env=own, capture_output=True, text=True, timeout=120)

    done = plan()
    assert done.returncode == 0, done.stderr
    assert "rollouts.server: trtllm-serve is checked where the servers run, not here" in done.stderr
    assert "--dry-run" in done.stdout.splitlines()[0] and "--stage export" in done.stdout.splitlines()[1]
    refused = plan("judge.server.max_seq_len=99")
    assert refused.returncode == 2 and "judge.server.max_seq_len: a question" in refused.stderr


STAGE = """\
export CUDA_VISIBLE_DEVICES=
over_nodes() { "$ROOT/slurm/server_step.sh" --nodes=2 --ntasks=4 --ntasks-per-node=2 "$@"; }
over_nodes sh -c 'echo "$SLURMD_NODENAME" >>"$NEMO_MCPO_RESULTS/tasks"' || exit 9
over_nodes sh -c 'exit 7'
echo "code $?"
"$ROOT/slurm/server_step.sh" sh -c 'touch "$NEMO_MCPO_RESULTS/up"; exec sleep 98765' &
until [ -e "$NEMO_MCPO_RESULTS/up" ]; do sleep 0.1; done
kill -TERM $!
wait $!
echo "ended $?"
"$ROOT/slurm/server_step.sh" sh -c 'touch "$NEMO_MCPO_RESULTS/left"; exec sleep 98765' &
until [ -e "$NEMO_MCPO_RESULTS/left" ]; do sleep 0.1; done
kill -KILL $!
"""


def test_steps_over_nodes_their_codes_and_their_ends(slurm, tmp_path):
    """A step lives as long as its caller; steps of a killed caller end with the stage, so the job can continue."""
    stage = program(tmp_path / "stage", STAGE, "bash")
    job = program(
        tmp_path / "job",
        f"set -euo pipefail\nNEMO_MCPO_JOB=run\nsource {ROOT}/slurm/common.sh\nexport ROOT\n"
        f'nemo_mcpo_begin "$@"\nnemo_mcpo_serving 0 {stage}\nnemo_mcpo_end\n',
        "bash",
    )
    words = ("--job-name=run", "--nodes=2", "--exclusive", f"--output={tmp_path}/batch.log", str(job))
    assert slurm.wait(slurm.submit(*words, **site(tmp_path)), 60.0)["JobState"] == "COMPLETED", said(tmp_path)
    assert sorted((tmp_path / "tasks").read_text().split()) == ["n0", "n0", "n1", "n1"]
    assert "0: code 7" in said(tmp_path) and "0: ended 1" in said(tmp_path)  # 128 and a signal: srun chooses which
    assert subprocess.run(["pgrep", "-f", "sleep 98765"], capture_output=True).stdout == b""


def test_a_step_outside_of_a_job(tmp_path):
    done = subprocess.run(
        [ROOT / "slurm" / "server_step.sh", "true"], env={"PATH": "/usr/bin:/bin"}, capture_output=True
    )
    assert done.returncode == 2 and b"no job script to start server steps" in done.stderr
