# SPDX-License-Identifier: Apache-2.0
"""Starts the processes of a program on this machine and waits for them, like torchrun, but keeps their exit code."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence

from nemo_mcpo.platform.children import Child, start_child, stop_child
from nemo_mcpo.platform.ports import free_port
from nemo_mcpo.platform.stopping import PARENT_DIED, StopRequest

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 1.0


def run_processes(
    command: Sequence[str],
    count: int,
    stop: StopRequest,
    start: Callable[..., Child] = start_child,
    tick: Callable[[], None] = lambda: None,
) -> int:
    """Run ``count`` processes of a command until they end; return 0, or the exit code of one that failed.

    A negative code is the number of the signal that killed a process. If one process fails, the others are stopped;
    none outlives this process. A request to stop is passed on once, so that the processes save and exit by themselves.

    Args:
        stop: polled a few times per second.
        start: ``children.start_child``, or ``forks.start_fork``.
        tick: called a few times per second.
    """
    environment = os.environ | (_rendezvous(count) if count > 1 else {})
    processes: list[Child] = []
    try:
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
            processes.append(start(command, environment=environment | own, parent_died=PARENT_DIED))
        codes, passed_on = _codes(processes), False
        while None in codes and not any(codes):
            if stop.reason() is not None and not passed_on:
                passed_on = True
                for process in processes:
                    process.send_signal(signal.SIGUSR1)
            tick()
            time.sleep(_POLL_SECONDS)
            codes = _codes(processes)
        if any(codes):
            time.sleep(_GRACE_SECONDS)  # a killed process takes others down with it: wait for all exit codes
        return min((code for code in _codes(processes) if code), default=0)
    finally:
        for process in processes:
            stop_child(process)


def _codes(processes: Sequence[Child]) -> list[int | None]:
    """Return the exit codes, None for processes that still run."""
    return [process.poll() for process in processes]


def _rendezvous(count: int) -> dict[str, str]:
    """Return variables that say where the processes meet, and how many threads each may use."""
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": threads,
    }
