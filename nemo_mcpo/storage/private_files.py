# SPDX-License-Identifier: Apache-2.0
"""Files with users' texts, readable only by their owner unless the site configures another mode."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

from nemo_mcpo.errors import ConfigError

FILE_MODE = "NEMO_MCPO_FILE_MODE"
"""Environment variable: the mode of these files in octal; 0640 shares results with a group."""
OWNER_ONLY = 0o600


def open_private(path: Path, mode: str) -> IO[Any]:
    """Open a file as ``open(path, mode)`` does, text as UTF-8; a new file gets mode 0600, or that of ``FILE_MODE``.

    The process's umask still applies, and an existing file keeps its mode.

    Raises:
        ConfigError: ``FILE_MODE`` is not a mode that lets the owner read and write.
    """
    new_mode = file_mode()
    encoding = None if "b" in mode else "utf-8"
    return open(path, mode, encoding=encoding, opener=lambda name, flags: os.open(name, flags, new_mode))


def file_mode() -> int:
    """Return the mode of a new private file; see ``open_private``."""
    text = os.environ.get(FILE_MODE)
    if text is None:
        return OWNER_ONLY
    if not text or set(text) - set("01234567") or int(text, 8) & ~0o666 or int(text, 8) & OWNER_ONLY != OWNER_ONLY:
        raise ConfigError(
            "not a valid file mode",
            where=FILE_MODE,
            got=repr(text),
            expected="0600, 0640, 0660, 0644 or 0664",
            fix=f"export {FILE_MODE}=0640, or unset it",
        )
    return int(text, 8)
