# SPDX-License-Identifier: Apache-2.0
"""A file is there entirely, or as it was before."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from nemo_mcpo.errors import StorageError
from nemo_mcpo.storage import whole_files
from nemo_mcpo.storage.whole_files import write_json, write_whole


def full_disk(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_whole_file_or_none(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_whole(path, [b"fi", b"rst"])
    write_whole(path, [b"second"])
    monkeypatch.setattr(whole_files.os, "fsync", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        write_whole(path, [b"third"])
    assert path.read_bytes() == b"second"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_content_that_fails_leaves_nothing(tmp_path):
    def parts() -> Iterator[bytes]:
        yield b"first"
        raise KeyError("second")

    with pytest.raises(KeyError):
        write_whole(tmp_path / "a.json", parts())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_need_not_survive_a_power_cut_waits_for_no_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(whole_files.os, "fsync", full_disk)
    write_whole(tmp_path / "a", [b"first"], durable=False)
    assert (tmp_path / "a").read_bytes() == b"first"


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o644)])
def test_who_can_read_it(tmp_path, monkeypatch, private, mode):
    monkeypatch.delenv("NEMO_MCPO_FILE_MODE", raising=False)
    before = os.umask(0o022)
    try:
        write_json(tmp_path / "a.json", {"b": 1}, private=private)
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode
    assert (tmp_path / "a.json").read_text() == '{\n "b": 1\n}\n'
