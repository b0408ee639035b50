# SPDX-License-Identifier: Apache-2.0
"""A file of lines that only grows: once ``append`` returns, its lines survive a power cut.

One process writes a file, any number read it meanwhile. A torn last line, a killed writer's last words, is dropped
when the next writer opens the file; readers leave it out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.platform.locks import lock_for_this_process
from nemo_mcpo.platform.private_files import open_private

_BLOCK = 1 << 16


class AppendLog:
    """The writer of ``path``; it excludes others as long as its process lives.

    Raises:
        ConfigError: another process writes it, ``patience_seconds`` long.
    """

    def __init__(self, path: Path, patience_seconds: float = 10.0) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_for_this_process(path.with_suffix(".lock"), patience_seconds)
        _drop_torn_line(path)

    def append(self, lines: Sequence[bytes], sync: bool = True) -> int:
        """Add lines, each with its line end; returns the byte where the first one starts.

        Without ``sync`` they survive the end of this process, but perhaps not a power cut.

        Raises:
            RolloutError: they could not be written; the file is as it was before.
        """
        start = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open_private(self.path, "ab") as file:
                file.write(b"".join(lines))
                file.flush()
                if sync:
                    os.fsync(file.fileno())
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, start)
            raise RolloutError(
                "lines could not be written",
                where=str(self.path),
                got=error.strerror,
                cure="make room; the same command then continues after the last whole batch",
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


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file that is there entirely, or not at all; RolloutError when it could not be written."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with open_private(temporary, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RolloutError(
            "a file could not be written",
            where=str(path),
            got=error.strerror,
            cure="make room; the same command then continues",
        ) from error


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """``write_whole`` of one JSON object."""
    write_whole(path, [(json.dumps(content, indent=1) + "\n").encode()])


def _drop_torn_line(path: Path) -> None:
    """Cut what follows the last line end."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                file.truncate(start + found + 1)
                return
            end = start
        file.truncate(0)
