# SPDX-License-Identifier: Apache-2.0
"""What a job script refuses in its first seconds, and its plan outside of Slurm."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.configs import ROOT
from tests.support.jobs import JOB, program, said, site, submit

pytestmark = [pytest.mark.functional, pytest.mark.slurm]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CONTAINER_IMAGE": "image.sqsh"}, "no runtime for CONTAINER_IMAGE=image.sqsh"),
        ({"CONTAINER_IMAGE": "image.sqsh", "CONTAINER_MOUNTS": "/absent:/x"}, "mount does not exist: /absent"),
        ({"TASKS_PER_NODE": "0"}, "this node has no GPUs"),
    ],
)
def test_bad_sites(slurm, inputs, tmp_path, changes, message):
    job = submit(slurm, inputs, tmp_path, **changes)
    assert slurm.wait(job, 30.0)["ExitCode"] == "2:0"
    assert f"error: {message}" in said(tmp_path)


def test_nodes_that_do_not_fit_the_layout(slurm, inputs, tmp_path):
    job = submit(slurm, inputs, tmp_path, "model.tensor_model_parallel_size=3")
    facts = slurm.wait(job, 60.0)
    assert (facts["ExitCode"], facts["Restarts"]) == ("2:0", "0")
    batch_log = (tmp_path / "batch.log").read_text()  # includes the end of the ranks' log
    assert "error: model.tensor_model_parallel_size x model.pipeline_model_parallel_size: " in batch_log
    assert "(got 3 x 1, " in batch_log and "a multiple of 3 processes" in batch_log


def test_a_directory_that_only_one_node_sees(slurm, inputs, tmp_path):
    # This srun removes the file before the other nodes look for it.
    srun = program(tmp_path / "bin" / "srun", f'rm -f "{tmp_path}"/run/.canary-*\nexec /usr/bin/srun "$@"')
    (tmp_path / "site.env").write_text(f"PATH={srun.parent}:$PATH\n")
    job = submit(slurm, inputs, tmp_path, NEMO_MCPO_SITE=str(tmp_path / "site.env"))
    assert slurm.wait(job, 30.0)["ExitCode"] == "2:0"
    assert f"error: {tmp_path}/run is not shared by all nodes" in said(tmp_path)


def test_a_partition_without_the_gpus(slurm):
    refused = slurm.run("sbatch", "--gres=gpu:16", str(JOB))
    assert refused.returncode != 0 and "Requested node configuration is not available" in refused.stderr


def test_the_plan_outside_slurm(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)} | site(tmp_path)
    words = ["bash", str(JOB), "--dry-run", "model.optim.lr=1e-6"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train_gpt_mcpo.py --config-name tiny_cpu" in done.stdout and done.stdout.endswith("model.optim.lr=1e-6 \n")


@pytest.mark.parametrize(
    "script", sorted({*ROOT.glob("slurm/*.sh")} - {ROOT / "slurm" / "common.sh"}), ids=lambda path: path.name
)
def test_slurm_takes_every_script(slurm, script):
    slurm.call("sbatch", "--test-only", str(script))
