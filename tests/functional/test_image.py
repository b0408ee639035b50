# SPDX-License-Identifier: Apache-2.0
"""The Dockerfile, built by buildah on a base without a GPU, and the image in use."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import nemo_mcpo
from tests.support.configs import ROOT
from tests.support.images import Buildah, write_wheel
from tests.support.launch import metrics, overrides

pytestmark = [pytest.mark.functional, pytest.mark.container]
COPIED = ("nemo_mcpo", "examples", "scripts", "requirements", "setup.py", "pyproject.toml", "README.md", "LICENSE")
PLANTED = (
    ".git/config",
    ".venv/bin/python",
    "results/run/metrics.jsonl",
    "slurm/site.env",
    ".env",
    "nemo_mcpo/key.pem",
)
SECRET = re.compile(r"key|token|secret|password|passwd|credential", re.IGNORECASE)
LACKING = "openai"


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> Path:
    """A checkout of the repository, with files that must not get into the image."""
    copy = tmp_path_factory.mktemp("context")
    for name in (*COPIED, "Dockerfile", ".dockerignore"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name)
        else:
            shutil.copy(ROOT / name, copy / name)
    for name in PLANTED:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("not for an image")
    return copy


@pytest.fixture(scope="module")
def buildah(tmp_path_factory) -> Iterator[Buildah]:
    root = tmp_path_factory.mktemp("buildah")
    yield Buildah(root)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def container(buildah, context) -> str:
    """A container of the image, whose base lacked a package that pip found in a directory."""
    lock = (ROOT / "requirements" / "cpu.lock").read_text()
    version = re.search(rf"^{LACKING}==(.+)$", lock, re.MULTILINE)[1]
    write_wheel(buildah.root / "wheels", LACKING, version)
    done = buildah.build(context, buildah.base("base", without=(LACKING,)), "localhost/nemo_mcpo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Successfully installed {LACKING}-{version}\n" in done.stdout
    assert "The base stack works." in done.stdout
    return buildah.call("from", "--pull-never", "localhost/nemo_mcpo").strip()


def answer(buildah: Buildah, container: str, *command: str, options: tuple[str, ...] = ()) -> str:
    done = buildah.in_image(container, *command, options=options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_what_the_image_says_of_itself(buildah, container):
    config = json.loads(buildah.call("inspect", "--type=image", "localhost/nemo_mcpo"))["Docker"]["config"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", config["User"])
    assert (config["WorkingDir"], config["Cmd"]) == ("/opt/nemo_mcpo", ["python", "scripts/doctor.py"])
    assert (labels["version"], labels["licenses"]) == (nemo_mcpo.__version__, "Apache-2.0")
    assert labels["base.name"] == "localhost/base"
    assert [line for line in config["Env"] if SECRET.search(line)] == []


def test_the_user_reads_the_program_and_writes_results(buildah, container):
    show = "import nemo_mcpo, openai, pathlib; print(pathlib.Path(nemo_mcpo.__file__).parent, nemo_mcpo.__version__)"
    where, version = answer(buildah, container, "python", "-c", show).split()
    assert where.startswith("/opt/venv/lib/") and version == nemo_mcpo.__version__
    writes = "id -u; touch ~/file /results/file; mkdir -p ~/.cache/x; touch /opt/nemo_mcpo/file 2>&1 || true"
    for options in ((), ("--user=4321:4321",)):
        user, refused = answer(buildah, container, "sh", "-c", writes, options=options).splitlines()
        assert user != "0" and "Permission denied" in refused
        answer(buildah, container, "sh", "-c", "rm -r ~/.cache ~/file /results/file", options=options)


def test_only_what_it_needs_is_inside(buildah, container):
    found = answer(
        buildah, container, "find", "/opt/nemo_mcpo", "/tmp", "/home/mcpo", "-mindepth", "1", "-maxdepth", "1"
    )
    names = {Path(line).name for line in found.split() if not Path(line).name.startswith(".bash")}
    assert names - {".profile"} == set(COPIED) - {"nemo_mcpo"}


def test_a_mounted_repository_comes_first(buildah, container):
    mounted = ("--volume", f"{ROOT}:{ROOT}:ro", "--env", f"PYTHONPATH={ROOT}")
    show = "import nemo_mcpo; print(nemo_mcpo.__file__)"
    assert answer(buildah, container, "python", "-c", show, options=mounted) == str(ROOT / "nemo_mcpo" / "__init__.py")


def test_training_in_the_image(buildah, container, inputs, tmp_path):
    """Run the examples in the image, with results mounted, as a user unknown to the image."""
    os.chown(tmp_path, 4321, 4321)
    subprocess.run(["chmod", "-R", "a+rX", inputs], check=True)
    mounts = (f"--volume={tmp_path}:{tmp_path}", f"--volume={inputs}:{inputs}:ro", "--user=4321:4321")
    keys = overrides(inputs, tmp_path / "run", trainer__mcpo__max_steps=1)
    answer(buildah, container, "python", "examples/train_gpt_mcpo.py", "--config-name=tiny_cpu", *keys, options=mounts)
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1]


def test_a_base_that_is_none(buildah, context):
    base = buildah.base("other", without=("nemo", "nemo_toolkit"))
    done = buildah.build(context, base, "localhost/other")
    assert done.returncode != 0
    assert "error: no nemo-toolkit here. Fix: use a base that has it, like nvcr.io/nvidia/nemo" in done.stderr
