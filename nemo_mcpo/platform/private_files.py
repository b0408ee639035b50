# SPDX-License-Identifier: Apache-2.0
"""Files that hold prompts, answers and verdicts: readable by their owner alone, unless the site says otherwise."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO, Any

from nemo_mcpo.errors import ConfigError

VARIABLE = "NEMO_MCPO_FILE_MODE"
"""Environment variable with the permissions of new files, in octal, such as 0640 for a group that works together."""


def open_private(path: str | os.PathLike[str], mode: str) -> IO[Any]:
    """``open``, except that a new file gets ``file_mode()`` whatever the umask is; an existing one keeps its own."""
    return open(path, mode, opener=_create, encoding=None if "b" in mode else "utf-8")


def open_descriptor(path: str | os.PathLike[str], flags: int) -> int:
    """``os.open`` with the permissions of ``open_private``."""
    return _create(os.fspath(path), flags)


def file_mode() -> int:
    """Permissions of new files: 0600, or what ``NEMO_MCPO_FILE_MODE`` says.

    Raises:
        ConfigError: the variable is not an octal number that lets the owner read and write.
    """
    text = os.environ.get(VARIABLE, "0600")
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777 or mode & 0o600 != 0o600:
        raise ConfigError(
            "not the permissions of a file",
            where=VARIABLE,
            got=text,
            expected="an octal number from 0600 to 0777 that lets the owner read and write, such as 0640",
            cure=f"export {VARIABLE}=0600, or unset it",
        )
    return mode


def _create(path: str, flags: int) -> int:
    mode = file_mode()
    existed = Path(path).exists()
    descriptor = os.open(path, flags, mode)
    if not existed and flags & os.O_CREAT and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        os.fchmod(descriptor, mode)  # the umask took some away
    return descriptor
