#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Installs what a NeMo container lacks of this package's requirements, and changes nothing that it has.

    python -m pip install --no-deps . && python scripts/complete_container.py

What is missing comes in the version of requirements/cpu.lock. Whatever is installed keeps its version: pip fails
rather than replace a package that NVIDIA has built. torch, megatron-core and NeMo must be the container's own.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.version import InvalidVersion, Version

from nemo_mcpo.platform.requirements import missing, requirements

LOCK = Path(__file__).resolve().parents[1] / "requirements" / "cpu.lock"
OF_THE_CONTAINER = ("torch", "megatron-core", "nemo-toolkit")


def normal(name: str) -> str:
    """A package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_version(text: str | None) -> bool:
    """Whether pip can compare it."""
    try:
        return bool(text and Version(text))
    except InvalidVersion:
        return False


def constraints() -> list[str]:
    """Every installed package at its version, every other one at that of the lock."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    versions = dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))
    versions = {normal(name): version for name, version in versions.items()}
    installed: dict[str, str] = {}
    for found in importlib.metadata.distributions():
        name, version = found.metadata["Name"], found.metadata["Version"]
        if name and is_version(version):  # Ubuntu's own packages have others, which pip cannot read
            installed.setdefault(normal(name), version)  # the first on the path is the one that is imported
    return [f"{name}=={version}" for name, version in sorted((versions | installed).items())]


def main() -> int:
    """0 when everything is there in the end, 1 when the base is none, else pip's code."""
    wanted = requirements()
    if not wanted:
        sys.exit("error: nemo_mcpo is not installed. Fix: python -m pip install --no-deps .")
    lacking = missing(wanted)
    if foreign := [one.name for one in lacking if one.name in OF_THE_CONTAINER]:
        sys.exit(f"error: no {', '.join(foreign)} here. Fix: a base that has it, such as nvcr.io/nvidia/nemo:26.02")
    if not lacking:
        print(f"all {len(wanted)} requirements are there")
        return 0
    # NVIDIA's images set constraints of their own, which need not agree with what they have installed.
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(constraints()))
        file.flush()
        command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--constraint", file.name]
        return subprocess.run([*command, *map(str, lacking)], env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
