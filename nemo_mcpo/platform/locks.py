# SPDX-License-Identifier: Apache-2.0
"""File locks, so that two runs that are started by accident do not write the same files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from nemo_mcpo.errors import ConfigError

_PATIENCE_SECONDS = 10.0


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (created when missing), waiting for it as long as it takes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def lock_for_this_process(path: Path, patience_seconds: float = _PATIENCE_SECONDS) -> None:
    """Take an exclusive lock that ends with this process.

    Raises:
        ConfigError: another process holds it, ``patience_seconds`` long: what a killed run leaves behind ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # never closed: the lock lives as long as it is open
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise ConfigError(
                    "another run is writing to this directory",
                    where=str(path.parent),
                    cure="wait for it, stop it, or choose another directory (training: exp_manager.explicit_log_dir)",
                ) from None
            time.sleep(0.2)
