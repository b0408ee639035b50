#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Install the requirements that a NeMo container lacks, without changing anything it has.

    python -m pip install --no-deps . && python scripts/complete_container.py

Missing packages are installed in the versions of requirements/cpu.lock. Installed packages keep their versions: pip
fails rather than replace a package built by NVIDIA. torch, megatron-core and NeMo must come with the container.
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
    """A package's normalized name, as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_version(text: str | None) -> bool:
    """Whether pip can parse a version."""
    try:
        return bool(text and Version(text))
    except InvalidVersion:
        return False


def constraints() -> list[str]:
    """Constraints that pin every installed package to its version, and every other one to that of the lock file."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    versions = dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))
    versions = {normal(name): version for name, version in versions.items()}
    installed: dict[str, str] = {}
    for found in importlib.metadata.distributions():
        name, version = found.metadata["Name"], found.metadata["Version"]
        if name and is_version(version):  # pip cannot parse the versions of Ubuntu's packages
            installed.setdefault(normal(name), version)  # the first one on the path is imported
    return [f"{name}=={version}" for name, version in sorted((versions | installed).items())]


def main() -> int:
    """Return 0 if all requirements are installed in the end, else pip's exit code; exit 1 on an unsuitable base."""
    wanted = requirements()
    if not wanted:
        sys.exit("error: nemo_mcpo is not installed. Fix: python -m pip install --no-deps .")
    lacking = missing(wanted)
    if foreign := [one.name for one in lacking if one.name in OF_THE_CONTAINER]:
        sys.exit(f"error: no {', '.join(foreign)} here. Fix: use a base that has it, like nvcr.io/nvidia/nemo:26.02")
    if not lacking:
        print(f"all {len(wanted)} requirements are installed")
        return 0
    # NVIDIA's images set their own constraints, which may contradict what they have installed.
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(constraints()))
        file.flush()
        command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--constraint", file.name]
        return subprocess.run([*command, *map(str, lacking)], env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
