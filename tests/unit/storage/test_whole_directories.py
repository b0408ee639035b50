# SPDX-License-Identifier: Apache-2.0
"""A directory has its name only when it is whole; two builds at once are tested with prepared data."""

from __future__ import annotations

import os
import socket

import pytest

from nemo_mcpo.storage.whole_directories import built_once, move_into_place, start_partial


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_new_directory_replaces_the_one_before(tmp_path):
    target = tmp_path / "new" / "model"
    for name in "ab":
        (start_partial(target) / name).touch()
        move_into_place(target)
        assert names(target) == [name] and names(target.parent) == ["model"]


def test_what_interrupted_calls_left_goes(tmp_path):
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


def test_the_first_build_stays(tmp_path):
    target = tmp_path / "data"
    with built_once(target) as second:
        with built_once(target) as first:
            (first / "first").touch()
        (second / "second").touch()
    assert names(target) == ["first"] and names(tmp_path) == ["data"]


def test_leftovers_of_dead_processes_go(tmp_path):
    host = socket.gethostname()
    kept = [f".{host}.{os.getpid()}.a", f".{host}.not-a-number.a", ".elsewhere.1.a"]
    for name in (*kept, f".{host}.{2**22 + 1}.a"):  # more than the largest process number
        (tmp_path / name).mkdir()
    with built_once(tmp_path / "data"):
        pass
    assert names(tmp_path) == sorted([*kept, "data"])
