# SPDX-License-Identifier: Apache-2.0
"""Asked to stop early: by a scheduler's signal, by Ctrl-C, or because the job's time is used up.

A signal is only noted; who works looks where everything is saved, and leaves with exit code 75. This module imports
nothing heavy, so that a process can listen from its first moment.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

STOPPED_EARLY = 75
"""The exit code of a process that stopped early with everything saved (EX_TEMPFAIL): the same command continues."""
JOB_START = "NEMO_MCPO_JOB_START"
"""Environment variable: when the job began, Unix seconds; Slurm has its own."""
PARENT_DIED = signal.SIGUSR2
"""What the processes of a launch get when the one that started them was killed: nobody waits, so end at once."""

_PROCESS_START = time.time()
_SAME_PRESS_SECONDS = 2.0
"""torchrun passes on a Ctrl-C that its processes got from the terminal already."""


class StoppedEarly(BaseException):
    """Everything is saved, and the same command continues."""


class StopRequest:
    """Whether this process was asked to stop.

    Attributes:
        deadline: when to stop by the clock, Unix seconds.
    """

    def __init__(self) -> None:
        self.deadline = math.inf
        self._signal: signal.Signals | None = None
        self._pressed = 0.0
        self._owner = os.getpid()

    def listen(self) -> StopRequest:
        """Note SIGUSR1, SIGTERM and Ctrl-C from now on; a second Ctrl-C interrupts."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        return self

    def leave_at_once(self) -> StopRequest:
        """From now on the first signal raises StoppedEarly: for work of which every piece is saved when it is done."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, PARENT_DIED):
            signal.signal(number, self._leave)
        if self._signal is not None:
            raise StoppedEarly(self._signal.name)
        return self

    def reason(self, needed_seconds: float = 0.0) -> str | None:
        """Why to stop, or None; ``needed_seconds``: how long the next piece of work will take."""
        if self._signal is not None:
            return self._signal.name
        return "the job's time is used up" if time.time() + needed_seconds > self.deadline else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._is_fork(number):
            return
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._signal == signal.SIGINT and now - self._pressed > _SAME_PRESS_SECONDS:
                raise KeyboardInterrupt
            self._pressed = now
        self._signal = signal.Signals(number)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        if self._is_fork(number) or self._signal is not None:  # the first signal is on its way through ``finally``
            return
        self._signal = signal.Signals(number)
        raise StoppedEarly(self._signal.name)

    def _is_fork(self, number: int) -> bool:
        """A worker of some library inherits the handlers: there the signal does what it would have done."""
        if os.getpid() == self._owner:
            return False
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return True


@contextmanager
def shielded_forks() -> Iterator[None]:
    """Processes that are forked inside do not hear what asks this one to stop: they finish what they do.

    A scheduler signals every process of a job, a terminal every process of its group; a fork that writes a part of a
    checkpoint must not end for it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # what no other thread heard in between is heard now


def job_start(environment: Mapping[str, str] = os.environ) -> float:
    """When the job began, Unix seconds: Slurm's, or this process, or the online driver that started it."""
    return float(environment.get(JOB_START) or environment.get("SLURM_JOB_START_TIME") or _PROCESS_START)


def job_deadline(budget_seconds: float | None, environment: Mapping[str, str] = os.environ) -> float:
    """When a job that has ``budget_seconds`` from its start ends, Unix seconds; infinity without a budget."""
    return math.inf if budget_seconds is None else job_start(environment) + budget_seconds
