# SPDX-License-Identifier: Apache-2.0
"""One process holds a lock; file systems without locks are tolerated."""

from __future__ import annotations

import errno
import os

import pytest

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.storage import locks


def test_one_at_a_time(tmp_path):
    path = tmp_path / "new" / ".lock"
    locks.lock_for_this_process(path)
    with pytest.raises(ConfigError) as caught:
        locks.lock_for_this_process(path, patience_seconds=0.0)
    assert caught.value.what == "another run is writing to this directory"  # docs/cluster.md explains it
    assert caught.value.where == str(path.parent)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog, number):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with locks.locked(tmp_path / "file"):
        pass
    locks.lock_for_this_process(tmp_path / "file")
    assert caplog.text.count("this file system has no locks") == 2


def test_other_errors_are_not_hidden(tmp_path, monkeypatch):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"), locks.locked(tmp_path / "file"):
        pass
