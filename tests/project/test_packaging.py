# SPDX-License-Identifier: Apache-2.0
"""The package's requirements, lock file and version agree, and no GPU package slips into the base."""

import importlib.metadata
import runpy
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nemo_mcpo

ROOT = Path(__file__).parents[2]
GPU_ONLY = {"transformer-engine", "flash-attn", "apex", "tensorrt-llm"}
NEMO_CONTAINER = {"torch": "2.10.0a0", "nemo-toolkit": "2.7.0", "megatron-core": "0.16.0"}


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What setup.py passes to setuptools."""
    arguments: dict = {}
    monkeypatch.setattr(setuptools, "setup", arguments.update)
    runpy.run_path(str(ROOT / "setup.py"))
    return arguments


def lock() -> dict[str, str]:
    """Return package -> pinned version from the CPU lock file."""
    lines = (ROOT / "requirements" / "cpu.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def test_the_lock_fits_every_requirement_without_gpu(metadata):
    pinned = lock()
    wanted = [Requirement(text) for text in metadata["install_requires"] + metadata["extras_require"]["dev"]]
    assert [str(w) for w in wanted if not w.specifier.contains(pinned[canonicalize_name(w.name)])] == []


def test_the_container_fits_the_base_requirements(metadata):
    wanted = {Requirement(text).name: Requirement(text) for text in metadata["install_requires"]}
    for package, version in NEMO_CONTAINER.items():
        assert wanted[package].specifier.contains(version, prereleases=True), package


def test_gpu_packages_stay_out_of_base_and_lock(metadata):
    base = {canonicalize_name(Requirement(text).name) for text in metadata["install_requires"]}
    assert not GPU_ONLY & (base | set(lock()))


def test_version_has_one_home(metadata):
    assert metadata["version"] == nemo_mcpo.__version__
    assert f"\nARG VERSION={nemo_mcpo.__version__}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_environment_is_the_lock():
    installed = {canonicalize_name(d.name): d.version.split("+")[0] for d in importlib.metadata.distributions()}
    heavy = ("torch", "megatron-core", "nemo-toolkit", "transformers", "datasets", "numpy")
    if installed["torch"] != lock()["torch"]:
        pytest.skip("the installed packages are not those of requirements/cpu.lock (a container)")
    assert {package: installed[package] for package in heavy} == {package: lock()[package] for package in heavy}
