# SPDX-License-Identifier: Apache-2.0
"""Files that hold people's words, made readable by their owner alone unless the site says otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

from nemo_mcpo.errors import ConfigError

FILE_MODE = "NEMO_MCPO_FILE_MODE"
"""Environment variable: the mode of such files in octal, 0640 for a group that shares results."""
OWNER_ONLY = 0o600


def open_private(path: Path, mode: str) -> IO[Any]:
    """``open(path, mode)``, UTF-8 where it is text; a file that this makes gets the mode 0600, or ``FILE_MODE``.

    The process's umask still applies, and a file that exists keeps its mode.

    Raises:
        ConfigError: ``FILE_MODE`` is not a mode that lets its owner read and write.
    """
    new_mode = file_mode()
    encoding = None if "b" in mode else "utf-8"
    return open(path, mode, encoding=encoding, opener=lambda name, flags: os.open(name, flags, new_mode))


def file_mode() -> int:
    """See ``open_private``."""
    text = os.environ.get(FILE_MODE)
    if text is None:
        return OWNER_ONLY
    if not text or set(text) - set("01234567") or int(text, 8) & ~0o666 or int(text, 8) & OWNER_ONLY != OWNER_ONLY:
        raise ConfigError(
            "not the mode of a file",
            where=FILE_MODE,
            got=repr(text),
            expected="0600, 0640, 0660, 0644 or 0664",
            fix=f"export {FILE_MODE}=0640, or unset it",
        )
    return int(text, 8)
