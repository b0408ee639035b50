# SPDX-License-Identifier: Apache-2.0
"""File locks, so that two runs that are started by accident do not write the same files."""

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
"""What a node that died held is free once the file server gives it up: minutes on NFS."""
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
"""A file system without locks, such as Lustre mounted without ``flock``."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (created when missing), waiting for it as long as it takes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, file_mode())
    try:
        _flock(descriptor, fcntl.LOCK_EX, path)
        yield
    finally:
        os.close(descriptor)


def lock_for_this_process(path: Path, patience_seconds: float = _PATIENCE_SECONDS) -> None:
    """Take an exclusive lock that ends with this process.

    Raises:
        ConfigError: another process holds it, ``patience_seconds`` long: what a killed run leaves behind ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Never closed: the lock lives as long as it is open.
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
    """Lock, or warn and go on where the file system has no locks."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError as problem:
        if problem.errno not in _NO_LOCKS:
            raise
        message = "%s: this file system has no locks (%s): start no two runs on the same files, or mount it with flock"
        logger.warning(message, path, problem.strerror)
