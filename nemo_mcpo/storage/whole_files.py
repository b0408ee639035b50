# SPDX-License-Identifier: Apache-2.0
"""Files that appear complete or not at all: written under a hidden name beside the target, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from nemo_mcpo.errors import StorageError
from nemo_mcpo.storage.private_files import open_private


def write_whole(path: Path, parts: Iterable[bytes], *, private: bool = True, durable: bool = True) -> None:
    """Write or replace a file.

    Args:
        private: see ``open_private``; otherwise the process's umask alone decides who can read the file.
        durable: once this returns the content survives a power cut.

    Raises:
        StorageError: it could not be written; a file that was there is as it was before.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with open_private(temporary, "wb") if private else open(temporary, "wb") as file:
            file.writelines(parts)
            if durable:
                sync_file(file)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise StorageError(
            "a file could not be written",
            where=str(path),
            got=error.strerror,
            cure="make room; the same command then continues",
        ) from error


def write_json(path: Path, content: Mapping[str, object], *, private: bool = True) -> None:
    """``write_whole`` of one JSON object."""
    write_whole(path, [(json.dumps(content, indent=1) + "\n").encode()], private=private)


def sync_file(file: IO[Any]) -> None:
    """Everything written to an open file reaches the disk itself."""
    file.flush()
    os.fsync(file.fileno())
