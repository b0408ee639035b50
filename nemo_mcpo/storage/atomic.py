# SPDX-License-Identifier: Apache-2.0
"""Files and directories that appear complete or not at all: written next to the target, then renamed.

``write_whole`` writes or replaces a file. A single writer replaces a directory with ``start_partial`` and
``move_into_place``. If several processes may build the same directory at once, ``built_once`` keeps the first result.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from nemo_mcpo.errors import StorageError
from nemo_mcpo.storage.private_files import open_private


def write_whole(path: Path, parts: Iterable[bytes], *, private: bool = True, durable: bool = True) -> None:
    """Write or replace a file; create its directory if it is missing.

    Args:
        private: see ``open_private``; otherwise, the process's umask alone decides who can read the file.
        durable: the content survives a power failure once this returns.

    Raises:
        StorageError: the file could not be written; an existing file is unchanged.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_private(temporary, "wb") if private else open(temporary, "wb") as file:
            file.writelines(parts)
            if durable:
                sync_file(file)
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        fix = "free disk space; the same command then continues"
        raise StorageError("cannot write the file", where=str(path), got=error.strerror, fix=fix) from error


def write_json(path: Path, content: Mapping[str, object], *, private: bool = True) -> None:
    """Write one JSON object with ``write_whole``; NaN, which JSON does not have, becomes null."""
    plain = json.loads(json.dumps(content), parse_constant=lambda name: None if name == "NaN" else float(name))
    write_whole(path, [(json.dumps(plain, indent=1) + "\n").encode()], private=private)


def start_partial(directory: Path) -> Path:
    """Return an empty directory to write into; remove what an interrupted run left there."""
    partial = partial_path(directory)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial


def partial_path(directory: Path) -> Path:
    """Return the path at which ``directory`` is written until it is complete."""
    return directory.with_name(f".{directory.name}.partial")


def move_into_place(directory: Path) -> None:
    """Rename the finished partial directory to ``directory``, replacing what is there."""
    replaced = directory.with_name(f".{directory.name}.replaced")
    if replaced.exists():
        shutil.rmtree(replaced)
    if directory.exists():
        directory.rename(replaced)
    partial_path(directory).rename(directory)
    if replaced.exists():
        shutil.rmtree(replaced)


@contextlib.contextmanager
def built_once(directory: Path) -> Iterator[Path]:
    """Yield a new directory to build in; it becomes ``directory`` when the block ends.

    If another process finishes first, its result is the same, and this one is removed.
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
    """Remove what killed processes on this machine left behind; leave builds that are still running alone."""
    for path in parent.glob(f".{socket.gethostname()}.*.*"):
        process = path.name.removeprefix(f".{socket.gethostname()}.").split(".")[0]
        try:
            os.kill(int(process), 0)  # signal 0 only checks that the process exists
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


def sync_file(file: IO[Any]) -> None:
    """Wait until everything written to an open file is on disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_tree(directory: Path) -> None:
    """Wait until everything below ``directory`` is on disk, then ``directory`` itself."""
    for path in [*directory.rglob("*"), directory]:
        sync(path)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the entries of a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
