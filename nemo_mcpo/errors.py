# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can cause: each says what is wrong, where, what was found, what is expected, and the fix.

>>> print(DataError("no answers", where="prompts.jsonl:7", got="[]", expected="at least 2", fix="drop the line"))
prompts.jsonl:7: no answers (got [], expected at least 2). Fix: drop the line.
"""

from __future__ import annotations


class NemoMcpoError(Exception):
    """Base class of errors that a user can cause and fix; commands print them as one line, without a traceback.

    Args:
        what: the problem, in a few words.
        where: a configuration key, ``file:line``, or a path.
        got: the offending value (never a secret).
        expected: what is accepted.
        fix: what to change.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, where: str = "", got: object = None, expected: object = None, fix: str = ""
    ) -> None:
        self.what, self.where, self.got, self.expected, self.fix = what, where, got, expected, fix
        facts = [f"{name} {value}" for name, value in (("got", got), ("expected", expected)) if value is not None]
        line = f"{where}: {what}" if where else what
        line += f" ({', '.join(facts)})" if facts else ""
        line += f". Fix: {fix.rstrip('.')}{'' if fix.endswith('?') else '.'}" if fix else ""
        super().__init__(" ".join(line.split()))


class ConfigError(NemoMcpoError):
    """A configuration key that is unknown, of the wrong type, out of range, or incompatible with another key."""

    exit_code = 2


class DataError(NemoMcpoError):
    """A data file, or a record in it, that cannot be used."""


class CheckpointError(NemoMcpoError):
    """Weights or training state that cannot be read or written, or that belong to another run."""


class StorageError(NemoMcpoError):
    """A file that cannot be written."""


class RolloutError(NemoMcpoError):
    """Generating or judging failed."""


class MemoryExhaustedError(NemoMcpoError):
    """A part of the work that does not fit into the memory of the GPU or of this machine."""
