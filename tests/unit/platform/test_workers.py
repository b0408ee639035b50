# SPDX-License-Identifier: Apache-2.0
"""Calls in threads: all results, the first error, and ticks in the caller's thread."""

from __future__ import annotations

import threading

import pytest

from nemo_mcpo.platform import workers
from nemo_mcpo.platform.workers import in_threads


def test_all_results_whatever_their_order():
    found = [result for some in in_threads(lambda number: number**2, range(50), 8) for result in some]
    assert sorted(found) == [number**2 for number in range(50)]


def test_no_more_concurrent_calls_than_threads():
    running, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(3, timeout=60.0)

    def call(item: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()  # for two others: fewer threads would wait forever
        with lock:
            running -= 1

    assert sum(map(len, in_threads(call, range(21), 3))) == 21
    assert most == 3


def test_the_first_error_does_not_wait_for_the_others():
    def call(item: int) -> int:
        if item == 1:
            raise ValueError("one")
        released.wait(60.0)
        waited.append(item)
        return item

    released, waited = threading.Event(), []
    with pytest.raises(ValueError, match="one"):
        list(in_threads(call, range(4), 4))
    assert waited == []
    released.set()


def test_ticks_while_the_caller_waits(monkeypatch):
    monkeypatch.setattr(workers, "_TICK_SECONDS", 0.01)
    enough, ticks = threading.Event(), []

    def tick() -> None:
        ticks.append(threading.get_ident())
        if len(ticks) == 3:
            enough.set()

    assert list(in_threads(lambda item: enough.wait(60.0), [0], 1, tick)) == [[True]]
    assert set(ticks) == {threading.get_ident()}  # in the caller's own thread


def test_nothing_to_do():
    assert list(in_threads(lambda item: item, [], 4)) == []
