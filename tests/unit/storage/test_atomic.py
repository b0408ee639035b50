# SPDX-License-Identifier: Apache-2.0
"""A file or directory is complete or unchanged."""

from __future__ import annotations

import errno
import json
import math
import os
import socket
from collections.abc import Iterator

import pytest

from nemo_mcpo.errors import StorageError
from nemo_mcpo.storage import atomic
from nemo_mcpo.storage.atomic import built_once, move_into_place, start_partial, write_json, write_whole
from tests.support.full_disk import full_disk


def test_a_failed_write_leaves_the_file_unchanged(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_whole(path, [b"fi", b"rst"])
    write_whole(path, [b"second"])
    monkeypatch.setattr(atomic.os, "fsync", full_disk)
    with pytest.raises(StorageError) as raised:
        write_whole(path, [b"third"])
    assert (raised.value.where, raised.value.got) == (str(path), os.strerror(errno.ENOSPC))
    assert path.read_bytes() == b"second"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_content_that_fails_leaves_nothing(tmp_path):
    def parts() -> Iterator[bytes]:
        yield b"first"
        raise KeyError("second")

    with pytest.raises(KeyError):
        write_whole(tmp_path / "a.json", parts())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_durable_is_not_synced(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.os, "fsync", full_disk)
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


def test_json_has_no_nan(tmp_path):
    content = {"a": math.nan, "b": [{"c": math.nan}, 0.1], "d": "NaN", "e": 7}
    write_json(tmp_path / "new" / "a.json", content)
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {
        "a": None,
        "b": [{"c": None}, 0.1],
        "d": "NaN",
        "e": 7,
    }


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_new_directory_replaces_the_old_one(tmp_path):
    target = tmp_path / "new" / "model"
    for name in "ab":
        (start_partial(target) / name).touch()
        move_into_place(target)
        assert names(target) == [name] and names(target.parent) == ["model"]


def test_leftovers_of_interrupted_calls_are_removed(tmp_path):
    target = tmp_path / "model"
    (start_partial(target) / "half").touch()
    (tmp_path / ".model.replaced" / "old").mkdir(parents=True)
    (start_partial(target) / "a").touch()
    move_into_place(target)
    assert names(target) == ["a"] and names(tmp_path) == ["model"]


def test_a_build_that_fails_leaves_nothing(tmp_path):
    target = tmp_path / "new" / "data"
    with pytest.raises(ValueError, match="bad"), built_once(target) as temporary:
        (temporary / "half").touch()
        raise ValueError("bad")
    assert names(target.parent) == []


def test_the_first_build_is_kept(tmp_path):
    target = tmp_path / "data"
    with built_once(target) as second:
        with built_once(target) as first:
            (first / "first").touch()
        (second / "second").touch()
    assert names(target) == ["first"] and names(tmp_path) == ["data"]


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    host = socket.gethostname()
    kept = [f".{host}.{os.getppid()}.a", f".{host}.not-a-number.a", ".elsewhere.1.a"]
    for name in (*kept, f".{host}.{2**22 + 1}.a"):  # above the largest process id
        (tmp_path / name).mkdir()
    with built_once(tmp_path / "data"):
        pass
    assert names(tmp_path) == sorted([*kept, "data"])
