# SPDX-License-Identifier: Apache-2.0
"""The heartbeat file: its content, how often it is written, and that a full disk is ignored."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest

from nemo_mcpo.platform import heartbeat
from nemo_mcpo.platform.heartbeat import Heartbeat


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """The current time, which a test can set."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def read(directory) -> dict:
    return json.loads((directory / "heartbeat.json").read_text())


def test_what_a_watcher_reads(tmp_path, monkeypatch, clock):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    Heartbeat(tmp_path / "run").beat("reference", 5, 9)
    known = read(tmp_path / "run")
    assert known.pop("host")
    assert known == {"time": 1000.0, "doing": "reference", "done": 5, "of": 9, "job": "4711", "restart": None}
    assert os.listdir(tmp_path / "run") == ["heartbeat.json"]


def test_at_most_one_per_second_but_always_the_first_and_the_last(tmp_path, clock):
    beats = Heartbeat(tmp_path / "run")
    for seconds, doing, done, written in (
        (0.0, "reference", 5, 5),
        (0.9, "reference", 6, 5),
        (0.2, "reference", 7, 7),
        (0.1, "reference", 9, 9),
        (0.1, "train", 0, 0),
    ):
        clock.now += seconds
        beats.beat(doing, done, 9)
        assert read(tmp_path / "run")["done"] == written


def test_a_failed_write_is_ignored(tmp_path):
    run = tmp_path / "run"
    run.touch()  # a file where the directory should be
    beats = Heartbeat(run)
    beats.beat("train", 1, 3)
    assert os.listdir(tmp_path) == ["run"] and run.read_bytes() == b""
    run.unlink()
    beats.beat("train", 3, 3)
    assert read(run)["done"] == 3
