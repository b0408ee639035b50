# SPDX-License-Identifier: Apache-2.0
"""Persistent cache of judge verdicts, so that no run asks a judge the same question twice.

    DIR/verdicts-00000.jsonl    {"key": hash of the judge and everything it saw, "value": …, "reply": …}, by one writer

Verdicts are looked up by the question alone, whichever run, segment or prompt asked it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from threading import Lock

from nemo_mcpo.errors import ConfigError, RolloutError
from nemo_mcpo.storage.append_log import AppendLog, read_lines

MAX_WRITERS = 64


class VerdictCache:
    """JSON values by question; thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._log = _first_free_log(directory)
        self._lock = Lock()
        self._values: dict[str, object] = {}
        for path in sorted(directory.glob("verdicts-*.jsonl")):
            for number, (_, line) in enumerate(read_lines(path), start=1):
                self._remember(line, f"{path}:{number}")

    def __len__(self) -> int:
        return len(self._values)

    def get(self, *asked: object) -> object | None:
        """The value stored for a question, or None."""
        return self._values.get(key_of(asked))

    def put(self, value: object, *asked: object, reply: str = "") -> None:
        """Store a value, and the whole reply on disk; once this returns, it survives a kill."""
        key = key_of(asked)
        line = json.dumps({"key": key, "value": value, "reply": reply}, ensure_ascii=False) + "\n"
        with self._lock:
            # Syncing every verdict would cost more than the few seconds of verdicts that a power failure loses.
            self._log.append([line.encode()], sync=False)
            self._values[key] = value

    def _remember(self, line: bytes, where: str) -> None:
        try:
            entry = json.loads(line)
            self._values[entry["key"]] = entry["value"]
        except (ValueError, KeyError, TypeError) as error:
            got = line[:60].decode(errors="replace")
            fix = "delete this line, so that the judge is asked again"
            raise RolloutError("not a verdict", where=where, got=got, fix=fix) from error


def key_of(asked: tuple[object, ...]) -> str:
    """Return the hash, 32 hexadecimal digits, of a question that is given as JSON values."""
    return hashlib.blake2b(json.dumps(asked, ensure_ascii=False).encode(), digest_size=16).hexdigest()


def _first_free_log(directory: Path) -> AppendLog:
    """Open the first file that no other run is writing to."""
    for number in range(MAX_WRITERS):
        try:
            return AppendLog(directory / f"verdicts-{number:05d}.jsonl", patience_seconds=0.0)
        except ConfigError:
            continue
    raise RolloutError("too many runs are writing verdicts", where=str(directory), expected=f"at most {MAX_WRITERS}")
