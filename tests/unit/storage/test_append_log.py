# SPDX-License-Identifier: Apache-2.0
"""A log keeps what was appended, drops torn lines, and is unchanged if the disk is full."""

from __future__ import annotations

import errno
import os

import pytest

from nemo_mcpo.errors import StorageError
from nemo_mcpo.storage import append_log as module, atomic
from nemo_mcpo.storage.append_log import AppendLog, append_after_whole, read_lines
from tests.support.full_disk import full_disk


@pytest.fixture(autouse=True)
def no_locks(monkeypatch):
    monkeypatch.setattr(module, "lock_for_this_process", lambda path, patience: None)


def test_lines_and_their_offsets(tmp_path):
    log = AppendLog(tmp_path / "new" / "a.jsonl")
    assert log.append([b"one\n", b"two\n"]) == 0
    assert log.append([b"three\n"]) == 8
    assert list(read_lines(log.path)) == [(0, b"one\n"), (4, b"two\n"), (8, b"three\n")]


def test_the_next_writer_removes_a_torn_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\ntwo\nthr")
    assert [line for _, line in read_lines(path)] == [b"one\n", b"two\n"]  # readers do not repair
    assert path.read_bytes().endswith(b"thr")
    AppendLog(path).append([b"four\n"])
    assert path.read_bytes() == b"one\ntwo\nfour\n"


@pytest.mark.parametrize("length", [0, 5, 1 << 16, (1 << 16) + 1, 200_000])
def test_torn_lines_of_any_length(tmp_path, length):
    path = tmp_path / "a.jsonl"
    for whole in (b"", b"one\n", b"x" * 70_000 + b"\n"):
        path.write_bytes(whole + b"t" * length)
        AppendLog(path)
        assert path.read_bytes() == whole


def test_a_full_disk_leaves_the_log_unchanged(tmp_path, monkeypatch):
    log = AppendLog(tmp_path / "a.jsonl")
    log.append([b"one\n"])
    monkeypatch.setattr(atomic.os, "fsync", full_disk)
    with pytest.raises(StorageError) as raised:
        log.append([b"two\n", b"three\n"])
    assert (raised.value.where, raised.value.got) == (str(log.path), os.strerror(errno.ENOSPC))
    assert "disk space" in raised.value.fix
    assert log.path.read_bytes() == b"one\n"


def test_a_record_follows_the_last_complete_one(tmp_path):
    path = tmp_path / "new" / "a.log"

    def end_of_dots(content: bytes) -> int:
        return content.rfind(b".") + 1

    for number, torn in enumerate((b"", b"to", b""), start=1):
        append_after_whole(path, b"%d." % number, end_of_dots)
        assert path.read_bytes() == b"1.2.3."[: 2 * number]
        path.write_bytes(path.read_bytes() + torn)
