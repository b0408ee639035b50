# SPDX-License-Identifier: Apache-2.0
"""The online job on a real Slurm: its stages as steps on the same nodes, or training and servers apart."""

from __future__ import annotations

import pytest

from tests.support.configs import ROOT
from tests.support.jobs import LAYOUT, site
from tests.support.launch import environment, metrics
from tests.support.online import online_overrides

pytestmark = [pytest.mark.functional, pytest.mark.slurm]
JOB = ROOT / "slurm" / "onmcpo_llama8b.sh"
ON_ONE_NODE = ("--nodes=1", "--gres=none")
TRAINER_AND_SERVERS_APART = ("--nodes=1", "--gres=none", ":", "--nodes=1", "--gres=none")


@pytest.mark.parametrize("layout", [ON_ONE_NODE, TRAINER_AND_SERVERS_APART], ids=["one node", "two groups"])
def test_an_online_run(slurm, inputs, tmp_path, layout):
    """Stage after stage, each a step of the job; a job that is submitted again finds everything done."""
    keys = online_overrides(inputs, tmp_path / "run", trainer__mcpo__max_steps=2, **LAYOUT)
    keys = [key for key in keys if not key.startswith(("exp_manager.explicit_log_dir", "onmcpo.segments"))]
    settings = site(tmp_path, CONFIG="gpt_onmcpo", SEGMENTS="1", PYTHONPATH=environment()["PYTHONPATH"])
    log = tmp_path / "batch.log"
    job = slurm.submit("--job-name=run", f"--output={log}", *layout, str(JOB), *keys, **settings)
    assert slurm.wait(job)["JobState"] == "COMPLETED", log.read_text()
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2]
    assert "segment 1 of 1: judge" in log.read_text()

    job = slurm.submit("--job-name=run", f"--output={log}", *layout, str(JOB), *keys, **settings)
    assert slurm.wait(job, 60.0)["JobState"] == "COMPLETED", log.read_text()
