# SPDX-License-Identifier: Apache-2.0
"""Directories that appear complete or not at all: written under a hidden name beside the target, then renamed."""

from __future__ import annotations

import shutil
from pathlib import Path

from nemo_mcpo.errors import CheckpointError


def check_replaceable(directory: Path) -> None:
    """Refuse a target that holds anything but an earlier model."""
    if not directory.exists():
        return
    if directory.is_dir() and ((directory / "config.json").exists() or not any(directory.iterdir())):
        return
    raise CheckpointError(
        "the new model would replace something that is not a model",
        where=str(directory),
        expected="a new path, an empty directory, or a Hugging Face directory",
        cure="choose another directory",
    )


def start_partial(directory: Path) -> Path:
    """An empty directory to write into; what an interrupted run left there is removed."""
    partial = partial_path(directory)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial


def partial_path(directory: Path) -> Path:
    """Where ``directory`` is written before it is complete."""
    return directory.with_name(f".{directory.name}.partial")


def move_into_place(directory: Path) -> None:
    """Give the complete partial directory its name; what had that name goes."""
    replaced = directory.with_name(f".{directory.name}.replaced")
    if replaced.exists():
        shutil.rmtree(replaced)
    if directory.exists():
        directory.rename(replaced)
    partial_path(directory).rename(directory)
    if replaced.exists():
        shutil.rmtree(replaced)
