# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import time

from nemo_mcpo.platform.heartbeat import Heartbeat


def test_what_a_watcher_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    started = time.time()
    heartbeat = Heartbeat(tmp_path / "run")
    heartbeat.beat("reference", 5, 9)
    known = json.loads(heartbeat.path.read_text())
    assert started <= known.pop("time") <= time.time()
    assert known.pop("host") and known == {"doing": "reference", "done": 5, "of": 9, "job": "4711", "restart": None}
    for done, written in ((6, 5), (9, 9)):  # too soon after the one before; but the end is always written
        heartbeat.beat("reference", done, 9)
        assert json.loads(heartbeat.path.read_text())["done"] == written
    heartbeat.beat("train", 0, 3)
    assert os.listdir(tmp_path / "run") == ["heartbeat.json"]


def test_a_full_disk_stops_nobody(tmp_path):
    (tmp_path / "run").touch()  # a file where the directory should be
    Heartbeat(tmp_path / "run").beat("train", 1, 3)
