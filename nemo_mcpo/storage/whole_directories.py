# SPDX-License-Identifier: Apache-2.0
"""Directories that appear complete or not at all: written under a hidden name beside the target, then renamed.

One writer at a time replaces a directory: ``start_partial``, then ``move_into_place``. Where several processes may
build the same thing at once, ``built_once`` keeps the first result.
"""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


@contextmanager
def built_once(directory: Path) -> Iterator[Path]:
    """A new directory to build in, which becomes ``directory`` when the block ends.

    When another process was first, its result is the same and this one goes.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(directory.parent)
    temporary = directory.parent / f".{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        yield temporary
        _publish(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, directory: Path) -> None:
    try:
        temporary.rename(directory)
    except OSError:
        if not directory.is_dir():
            raise
        return
    sync(directory.parent)


def _remove_leftovers(parent: Path) -> None:
    """Remove what killed processes of this machine left behind; a build that still runs is not touched."""
    for path in parent.glob(f".{socket.gethostname()}.*.*"):
        process = path.name.removeprefix(f".{socket.gethostname()}.").split(".")[0]
        try:
            os.kill(int(process), 0)  # signal 0 only asks whether the process is there
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


def sync_tree(directory: Path) -> None:
    """Everything below ``directory`` reaches the disk itself, and then its own names."""
    for path in [*directory.rglob("*"), directory]:
        sync(path)


def sync(path: Path) -> None:
    """A file's content, or a directory's names, reach the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
