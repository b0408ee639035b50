# SPDX-License-Identifier: Apache-2.0
"""Files that only grow: once an append returns, what it added survives a power cut.

An ``AppendLog`` is a file of lines with one writer and any number of readers. A last line that a killed writer left
torn is dropped when the next writer opens the file; readers leave it out. Where several processes add records to one
file, ``append_after_whole`` does the same for each record.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nemo_mcpo.errors import StorageError
from nemo_mcpo.storage.atomic import sync_file
from nemo_mcpo.storage.locks import lock_for_this_process, locked
from nemo_mcpo.storage.private_files import open_private


class AppendLog:
    """The writer of ``path``; it excludes others as long as its process lives.

    Raises:
        ConfigError: another process writes it, ``patience_seconds`` long.
    """

    def __init__(self, path: Path, patience_seconds: float = 10.0) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_for_this_process(path.with_suffix(".lock"), patience_seconds)
        if path.exists():  # what follows the last line end is torn
            os.truncate(path, max((start + len(line) for start, line in read_lines(path)), default=0))

    def append(self, lines: Sequence[bytes], sync: bool = True) -> int:
        """Add lines, each with its line end; returns the byte where the first one starts.

        Without ``sync`` they survive the end of this process, but perhaps not a power cut.

        Raises:
            StorageError: they could not be written; the file is as it was before.
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
                "lines could not be written",
                where=str(self.path),
                got=error.strerror,
                fix="make room; the same command then continues after the last whole batch",
            ) from error
        return start


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Where each whole line starts, and the line; what a writer is about to finish is left out."""
    start = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield start, line
            start += len(line)


def append_after_whole(path: Path, record: bytes, end_of_whole: Callable[[bytes], int]) -> None:
    """Add one record to a file that several processes add to: after the last whole one, whoever wrote that.

    Once this returns the record survives a power cut; a torn one that a killed writer left behind is dropped.

    Args:
        end_of_whole: where the whole records of the given content end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path), open(path, "r+b") as file:
        file.seek(end_of_whole(file.read()))
        file.truncate()
        file.write(record)
        sync_file(file)
