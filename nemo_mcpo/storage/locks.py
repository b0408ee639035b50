# SPDX-License-Identifier: Apache-2.0
"""File locks that keep two runs, started by accident, from writing the same files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.storage.private_files import file_mode

logger = logging.getLogger(__name__)
_PATIENCE_SECONDS = 300.0 if int(os.environ.get("SLURM_RESTART_COUNT") or 0) else 10.0
"""A restarted job waits longer: NFS takes minutes to release the locks of a dead node."""
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
"""Errors of a file system without locks, such as Lustre mounted without ``flock``."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (created if missing), waiting for it as long as it takes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, file_mode())
    try:
        _flock(descriptor, fcntl.LOCK_EX, path)
        yield
    finally:
        os.close(descriptor)


def lock_for_this_process(path: Path, patience_seconds: float = _PATIENCE_SECONDS) -> None:
    """Take an exclusive lock that is released when this process ends.

    Raises:
        ConfigError: another process still holds it after ``patience_seconds``; by then, that of a killed run expires.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Never closed: the lock lasts as long as the descriptor is open.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, file_mode())
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise ConfigError(
                    "another run is writing to this directory",
                    where=str(path.parent),
                    fix="wait for it, stop it, or choose another directory (training: exp_manager.explicit_log_dir)",
                ) from None
            time.sleep(0.2)


def _flock(descriptor: int, operation: int, path: Path) -> None:
    """Lock; if the file system has no locks, warn and continue without."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError as problem:
        if problem.errno not in _NO_LOCKS:
            raise
        message = "%s: this file system has no locks (%s): mount it with flock, or never run twice on the same files"
        logger.warning(message, path, problem.strerror)
