# SPDX-License-Identifier: Apache-2.0
"""Append-only files: once an append returns, the data survives a power failure.

An ``AppendLog`` is a file of lines with one writer and any number of readers. If a killed writer leaves a torn last
line, the next writer removes it when it opens the file; readers skip it. If several processes add records to one file,
``append_after_whole`` does the same for each record.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nemo_mcpo.errors import StorageError
from nemo_mcpo.storage.atomic import sync_file
from nemo_mcpo.storage.locks import lock_for_this_process, locked
from nemo_mcpo.storage.private_files import open_private


class AppendLog:
    """The writer of ``path``; no other process can write to it while this process lives.

    Raises:
        ConfigError: another process still writes to it after ``patience_seconds``.
    """

    def __init__(self, path: Path, patience_seconds: float = 10.0) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_for_this_process(path.with_suffix(".lock"), patience_seconds)
        if path.exists() and path.stat().st_size:  # an empty file cannot be mapped
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                whole = content.rfind(b"\n") + 1  # anything after the last newline is a torn line
            os.truncate(path, whole)

    def append(self, lines: Sequence[bytes], sync: bool = True) -> int:
        """Append lines, each ending in a newline, and return the byte offset of the first one.

        Without ``sync``, they survive a kill of this process, but perhaps not a power failure.

        Raises:
            StorageError: the lines could not be written; the file is unchanged.
        """
        start = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open_private(self.path, "ab") as file:
                file.write(b"".join(lines))
                if sync:
                    sync_file(file)
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, start)
            raise StorageError(
                "cannot append to the file",
                where=str(self.path),
                got=error.strerror,
                fix="free disk space; the same command then continues after the last complete batch",
            ) from error
        return start


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the byte offset and the content of each complete line; skip a line that is still being written."""
    start = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield start, line
            start += len(line)


def append_after_whole(path: Path, record: bytes, end_of_whole: Callable[[bytes], int]) -> None:
    """Append one record after the last complete record of a file that several processes append to.

    Once this returns, the record survives a power failure. A torn record of a killed writer is removed.

    Args:
        end_of_whole: returns the offset at which the complete records in the given content end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path), open(path, "r+b") as file:
        file.seek(end_of_whole(file.read()))
        file.truncate()
        file.write(record)
        sync_file(file)
