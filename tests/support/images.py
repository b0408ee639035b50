# SPDX-License-Identifier: Apache-2.0
"""Builds container images with buildah, without a daemon and without a registry.

The base image looks like NVIDIA's container (an environment in /opt/venv with torch, megatron-core and NeMo), but is
almost empty: this machine's /usr, Python and packages are mounted read-only while a step runs.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = Path(sysconfig.get_path("purelib"))
DIRECTORIES = ("usr", "proc", "sys", "dev", "run", "etc", "home", "tmp", "opt/python", "opt/stack", "opt/wheels")
PIP = "[global]\nno-index = true\nfind-links = /opt/wheels\n"
VARIABLES = {
    "PATH": "/opt/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LD_LIBRARY_PATH": "/opt/python/lib",  # for a Python that is built with a shared library
    "OMP_NUM_THREADS": "1",
}


class Buildah:
    """``buildah`` with its storage in ``root``; removing that directory removes everything."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("wheels", "base"):
            (root / name).mkdir(parents=True)
        # Pairs and no dictionary, since the system's Python also lies in /usr.
        mounts = [("/usr", "/usr"), (sys.base_prefix, "/opt/python"), (PACKAGES, "/opt/stack")]
        mounts.append((root / "wheels", "/opt/wheels"))
        self.mounts = [f"--volume={here}:{there}:ro" for here, there in mounts]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        own = ("buildah", "--root", str(self.root / "storage"), "--runroot", str(self.root / "run"))
        command = [*own, "--storage-driver", "vfs", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def call(self, *words: str) -> str:
        """Return the standard output of a command that must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, f"{words}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def base(self, name: str, without: tuple[str, ...] = ()) -> str:
        """Build an image whose Python has the packages of this environment except ``without``; return its name."""
        tree = self.root / "base" / name
        for directory in DIRECTORIES:
            (tree / directory).mkdir(parents=True)
        (tree / "tmp").chmod(0o1777)
        for link in ("bin", "sbin", "lib", "lib64"):
            (tree / link).symlink_to(f"usr/{link}")
        (tree / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
        (tree / "etc" / "group").write_text("root:x:0:\n")
        (tree / "etc" / "pip.conf").write_text(PIP)
        write_environment(tree / "opt" / "venv", without)
        container = self.call("from", "scratch").strip()
        self.call("copy", "--quiet", container, str(tree), "/")
        self.call("config", *(f"--env={name}={value}" for name, value in VARIABLES.items()), container)
        self.call("commit", "--quiet", "--format=docker", "--rm", container, f"localhost/{name}")
        return f"localhost/{name}"

    def build(self, context: Path, base: str, tag: str) -> subprocess.CompletedProcess[str]:
        words = ("bud", "--isolation=chroot", "--format=docker", "--pull-never", f"--build-arg=BASE_IMAGE={base}")
        return self.run(*words, *self.mounts, "--tag", tag, str(context))

    def in_image(self, container: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        """Run a command in a container, as ``docker run`` would."""
        words = ("run", "--isolation=chroot", *self.mounts, *options, container, "--")
        return self.run(*words, "/usr/bin/env", *command)  # buildah does not search the image's PATH


def write_environment(venv: Path, without: tuple[str, ...]) -> None:
    """Write a virtual environment with links to the packages of this one, except this project."""
    packages = venv / "lib" / PYTHON / "site-packages"
    packages.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin" / "python").symlink_to(f"/opt/python/bin/{PYTHON}")
    (venv / "pyvenv.cfg").write_text("home = /opt/python/bin\ninclude-system-site-packages = false\n")
    for entry in PACKAGES.iterdir():
        name = entry.name.lower()
        left_out = any(name == one or name.startswith(f"{one}-") for one in without)
        if not left_out and "nemo_mcpo" not in name and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(f"/opt/stack/{entry.name}")


def write_wheel(directory: Path, name: str, version: str) -> None:
    """Write an empty package of this name and version."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
