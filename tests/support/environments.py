# SPDX-License-Identifier: Apache-2.0
"""Installs other versions of a package next to the installed ones, for programs in processes of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nemo_mcpo.storage.locks import locked


def installed(requirement: str) -> Path:
    """Return a directory to put first in PYTHONPATH, with ``requirement`` in it; install it once per machine.

    If the package index cannot be reached, the test is skipped with pip's own reason.
    """
    cache = Path(os.environ.get("NEMO_MCPO_CACHE") or Path(tempfile.gettempdir()) / "nemo_mcpo").expanduser()
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    target = cache / "environments" / python / re.sub(r"[^\w.]+", "-", requirement)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f"{target.name}.lock")):
        if not target.exists():
            partial = target.with_name(f"{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            try:
                done = subprocess.run(
                    [*command, "--target", partial, requirement], capture_output=True, text=True, timeout=600
                )
                problem = done.stderr.strip().splitlines()[-1:] if done.returncode else []
            except subprocess.TimeoutExpired:
                problem = ["no answer within 600 s"]
            if problem:
                shutil.rmtree(partial, ignore_errors=True)
                pytest.skip(f"pip cannot install {requirement}: {problem[0]}")
            partial.rename(target)
    return target
