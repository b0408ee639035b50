# SPDX-License-Identifier: Apache-2.0
"""A job script with an image: its options for pyxis and apptainer, and a run through both."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.configs import ROOT
from tests.support.jobs import JOB, program, said, site, submit
from tests.support.launch import metrics
from tests.support.slurm import Slurm

pytestmark = [pytest.mark.functional, pytest.mark.slurm]

# Each rank records where it runs and which options the plugin got.
PYTHON = f"""\
printf '%s\\n' "$PWD" "$FAKEPYXIS_IMAGE" "$FAKEPYXIS_MOUNTS" "$FAKEPYXIS_WORKDIR" "$FAKEPYXIS_ENV" \\
    >"$NEMO_MCPO_RESULTS/rank$SLURM_PROCID"
exec {sys.executable} "$@"
"""
# Each rank records its arguments; the words before the program are dropped.
APPTAINER = """\
printf '%s\\n' "$@" >"$NEMO_MCPO_RESULTS/rank$SLURM_PROCID"
cd "$6" && shift 7 && exec "$@"
"""


def mounts(results: Path) -> str:
    """The mounts: the repository, results, the cache, and one that the site adds."""
    own = (ROOT, results, results / "cache")
    return ",".join([*(f"{path}:{path}" for path in own), f"{results}:/extra"])


def run(slurm: Slurm, inputs: Path, results: Path, **changes: str) -> list[list[str]]:
    """Run two steps on two nodes, and return what each rank recorded."""
    settings = {"TASKS_PER_NODE": "1", "CONTAINER_IMAGE": "image.sqsh", "CONTAINER_MOUNTS": f"{results}:/extra"}
    job = submit(slurm, inputs, results, "trainer.mcpo.max_steps=2", **(settings | changes))
    assert slurm.wait(job)["JobState"] == "COMPLETED", said(results)
    assert [line["step"] for line in metrics(results / "run")] == [1, 2]
    return [(results / f"rank{rank}").read_text().splitlines() for rank in range(2)]


def test_a_run_through_pyxis(with_pyxis, inputs, tmp_path):
    python = program(tmp_path / "python", PYTHON)
    for *noted, names in run(with_pyxis, inputs, tmp_path, PYTHON=str(python), NCCL_DEBUG="INFO"):
        assert noted == [str(ROOT), "image.sqsh", mounts(tmp_path), str(ROOT)]
        assert {"PYTHONPATH", "MASTER_ADDR", "NEMO_MCPO_CACHE", "NCCL_DEBUG"} <= set(names.split(","))


def test_a_run_through_apptainer(slurm, inputs, tmp_path):
    apptainer = program(tmp_path / "bin" / "apptainer", APPTAINER)
    (tmp_path / "site.env").write_text(f"PATH={apptainer.parent}:$PATH\n")
    for words in run(slurm, inputs, tmp_path, NEMO_MCPO_SITE=str(tmp_path / "site.env")):
        own = ["exec", "--nv", "--bind", mounts(tmp_path), "--pwd", str(ROOT), "image.sqsh"]
        assert words[:9] == [*own, sys.executable, str(ROOT / "examples" / "train_gpt_mcpo.py")]


def test_the_program_is_the_image_s(with_pyxis, tmp_path):
    """If the site does not set PYTHON: the repository's .venv belongs to the host."""
    settings = {name: value for name, value in site(tmp_path).items() if name != "PYTHON"}
    plan = with_pyxis.call("bash", str(JOB), "--dry-run", CONTAINER_IMAGE="image.sqsh", **settings)
    assert f" python {ROOT}/examples/train_gpt_mcpo.py " in plan


@pytest.mark.parametrize("where", ["/absent", "/absent:/x:ro"])
def test_a_mount_that_does_not_exist(with_pyxis, inputs, tmp_path, where):
    changes = {"CONTAINER_IMAGE": "image.sqsh", "CONTAINER_MOUNTS": f"/usr:/host,{where}"}
    job = submit(with_pyxis, inputs, tmp_path, **changes)
    assert with_pyxis.wait(job, 30.0)["ExitCode"] == "2:0"
    assert "error: mount does not exist: /absent" in said(tmp_path)
