# SPDX-License-Identifier: Apache-2.0
"""Heartbeats of all ranks name the rank that keeps the others waiting."""

from __future__ import annotations

import os
import sys

import pytest

from nemo_mcpo.platform.hang_watch import Beat, find_culprits, place_of

NOW, SILENCE = 1000.0, 60.0


def beat(
    rank: int, place: str = "algorithms/mcpo.py:1", *, ago: float = 1.0, moved: float = 100.0, waits: bool = True
) -> Beat:
    return Beat(rank, f"node{rank}", NOW - ago, NOW - moved, place, waits)


@pytest.mark.parametrize(
    ("beats", "message"),
    [
        ([beat(0), beat(1, ago=61.0)], "no heartbeat from rank 1 (node1), last at algorithms/mcpo.py:1. "),
        ([beat(0), None], "no heartbeat from rank 1, ever. "),
        ([beat(0), beat(1, "data/order.py:7", waits=False)], "the others wait for rank 1 (node1) at data/order.py:7"),
        ([beat(0, "a.py:1", moved=3.0), beat(1), beat(2)], "the others wait for rank 0 (node0) at a.py:1"),
        ([beat(0, waits=False), beat(1, "b.py:2", moved=3.0)], "the others wait for rank 1 (node1) at b.py:2"),
        ([beat(0), beat(1, "b.py:2"), beat(2)], "no rank makes progress: ranks [1] at b.py:2; ranks [0, 2] at "),
        ([beat(0, waits=False), beat(1, waits=False)], "no rank makes progress: ranks [0, 1] at "),
    ],
)
def test_who_keeps_the_others_waiting(beats, message):
    assert find_culprits(beats, NOW, SILENCE).startswith(message)


def test_a_thousand_silent_ranks_are_one_line():
    assert len(find_culprits([beat(0), *[None] * 1023], NOW, SILENCE)) < 300


def test_the_innermost_line_of_this_package():
    frame = sys._getframe()
    assert place_of(frame).endswith(f":{frame.f_lineno}")
    code = compile("frame = get()", f"{os.sep}x{os.sep}nemo_mcpo{os.sep}models{os.sep}gpt.py", "exec")
    found: dict = {"get": lambda: sys._getframe()}
    exec(code, found)
    assert place_of(found["frame"]) == "models/gpt.py:1"
    assert place_of(None) == "nowhere"
