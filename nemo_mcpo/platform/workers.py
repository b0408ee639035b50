# SPDX-License-Identifier: Apache-2.0
"""Runs many calls that mostly wait, in threads: yields results as they finish, and raises the first error."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_TICK_SECONDS = 1.0


def in_threads(
    call: Callable[[Item], Result], items: Iterable[Item], num_threads: int, tick: Callable[[], None] = lambda: None
) -> Iterator[list[Result]]:
    """Yield the results that have arrived since the last yield.

    The threads are daemons: neither an error nor the end of this process waits for calls that are still running.

    Args:
        num_threads: how many calls run at once.
        tick: called in the caller's thread about once per second.
    """
    waiting: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
    finished: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        while (item := waiting.get()) is not None:
            try:
                finished.put((call(item), None))
            except BaseException as error:
                finished.put((None, error))

    missing = 0
    for item in items:
        waiting.put(item)
        missing += 1
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(num_threads, missing))]
    for thread in threads:
        waiting.put(None)
        thread.start()
    while missing:
        tick()
        results = []
        for result, error in _take(finished):
            if error is not None:
                raise error
            results.append(result)
        missing -= len(results)
        if results:
            yield results


def _take(finished: queue.SimpleQueue) -> Iterator:
    """Yield everything that has finished, waiting a moment for the first."""
    try:
        yield finished.get(timeout=_TICK_SECONDS)
        while True:
            yield finished.get_nowait()
    except queue.Empty:
        return
