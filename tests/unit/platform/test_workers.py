# SPDX-License-Identifier: Apache-2.0
"""Calls in threads: all results, the first error, a tick for the caller."""

from __future__ import annotations

import threading
import time

import pytest

from nemo_mcpo.platform.workers import in_threads


def test_all_results_whatever_their_order():
    found = [result for some in in_threads(lambda number: number**2, range(50), 8) for result in some]
    assert sorted(found) == [number**2 for number in range(50)]


def test_no_more_calls_at_a_time_than_threads():
    running, most, lock = 0, 0, threading.Lock()

    def call(item: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    assert sum(map(len, in_threads(call, range(20), 3))) == 20
    assert most == 3


def test_the_first_error_does_not_wait_for_the_others():
    def call(item: int) -> int:
        if item == 1:
            raise ValueError("one")
        time.sleep(5.0)
        return item

    started = time.monotonic()
    with pytest.raises(ValueError, match="one"):
        list(in_threads(call, range(4), 4))
    assert time.monotonic() - started < 3.0


def test_the_caller_is_ticked_while_it_waits():
    ticks = []
    list(in_threads(lambda item: time.sleep(1.5), [0], 1, lambda: ticks.append(1)))
    assert len(ticks) >= 2


def test_nothing_to_do():
    assert list(in_threads(lambda item: item, [], 4)) == []
