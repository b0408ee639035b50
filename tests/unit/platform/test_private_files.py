# SPDX-License-Identifier: Apache-2.0
"""New files are their owner's alone, or have the mode that the site names; others keep theirs."""

from __future__ import annotations

import os
import stat

import pytest

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.platform.private_files import VARIABLE, file_mode, open_descriptor, open_private


def mode_of(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o077, 0o000])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.parametrize(("variable", "mode"), [(None, 0o600), ("0640", 0o640), ("664", 0o664), ("0o600", 0o600)])
def test_new_files(tmp_path, monkeypatch, umask, variable, mode):
    monkeypatch.delenv(VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(VARIABLE, variable)
    with open_private(tmp_path / "a", "ab") as file:
        file.write(b"1")
    with open_private(str(tmp_path / "b"), "w") as file:
        file.write("ü")
    os.close(open_descriptor(tmp_path / "c", os.O_RDWR | os.O_CREAT))
    assert [mode_of(tmp_path / name) for name in "abc"] == [mode] * 3
    assert (tmp_path / "b").read_bytes() == "ü".encode()


def test_existing_files_keep_their_mode(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    path.chmod(0o664)
    with open_private(path, "ab") as file:
        file.write(b"2")
    assert mode_of(path) == 0o664 and path.read_bytes() == b"12"
    with pytest.raises(FileNotFoundError):
        open_private(tmp_path / "none", "rb")


@pytest.mark.parametrize("wrong", ["rw-", "", "0o888", "0400", "01777", "-600"])
def test_modes_that_are_none(monkeypatch, wrong):
    monkeypatch.setenv(VARIABLE, wrong)
    with pytest.raises(ConfigError, match=f"{VARIABLE}: not the permissions of a file"):
        file_mode()
