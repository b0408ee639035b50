# SPDX-License-Identifier: Apache-2.0
"""Maps a function over items on all CPU cores, in forks of this process that share what it has loaded."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from nemo_mcpo.errors import MemoryExhaustedError
from nemo_mcpo.platform.children import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 8
_work: Callable[[Any], Any] | None = None  # in a fork: the function that it calls


def in_forks(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield ``map(work, items)`` in the order of the items; results do not depend on the number of processes.

    Uses several processes only on a CPU, and only if each has one thread (``OMP_NUM_THREADS=1``): a fork can use
    neither a GPU nor its parent's thread pool.

    Args:
        work: a function of one item; items and results must be picklable, ``work`` need not be.

    Raises:
        MemoryExhaustedError: a process was killed.
    """
    processes = num_forks(len(items))
    if processes < 2:
        yield from map(work, items)
        return
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(processes, fork, initializer=_begin, initargs=(work, os.getpid()))
    try:
        yield from pool.map(_call, items)
    except BrokenProcessPool as error:
        raise MemoryExhaustedError(
            "a worker process was killed",
            got=f"{processes} processes",
            fix="memory probably ran out: use smaller batches, or OMP_NUM_THREADS=2 for a single process",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def num_forks(num_items: int) -> int:
    """Return the number of processes for this many items: 1 if this process has a GPU or more than one thread."""
    if torch.cuda.is_available() or torch.get_num_threads() > 1:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(num_items, cores, _MOST))


def _begin(work: Callable[[Any], Any], parent: int) -> None:
    global _work
    die_with_parent(parent, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _work = work


def _call(item: Any) -> Any:
    assert _work is not None
    return _work(item)
