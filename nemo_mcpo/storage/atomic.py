# SPDX-License-Identifier: Apache-2.0
"""Files and directories that appear complete or not at all: written beside the target, then renamed.

``write_whole`` writes or replaces a file. One writer at a time replaces a directory: ``start_partial``, then
``move_into_place``. Where several processes may build the same directory at once, ``built_once`` keeps the first one.
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
    """Write or replace a file; its directory is made when it is missing.

    Args:
        private: see ``open_private``; otherwise the process's umask alone decides who can read the file.
        durable: once this returns, the content survives a power cut.

    Raises:
        StorageError: it could not be written; a file that was there is as it was before.
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
        fix = "make room; the same command then continues"
        raise StorageError("a file could not be written", where=str(path), got=error.strerror, fix=fix) from error


def write_json(path: Path, content: Mapping[str, object], *, private: bool = True) -> None:
    """``write_whole`` of one JSON object; JSON has no NaN, null stands for it."""
    plain = json.loads(json.dumps(content), parse_constant=lambda name: None if name == "NaN" else float(name))
    write_whole(path, [(json.dumps(plain, indent=1) + "\n").encode()], private=private)


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


@contextlib.contextmanager
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


def sync_file(file: IO[Any]) -> None:
    """Wait until everything written to an open file is on disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_tree(directory: Path) -> None:
    """Wait until everything below ``directory`` is on disk, then ``directory`` itself."""
    for path in [*directory.rglob("*"), directory]:
        sync(path)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
