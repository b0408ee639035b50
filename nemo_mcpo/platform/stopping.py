# SPDX-License-Identifier: Apache-2.0
"""Requests to stop early: a scheduler's signal, Ctrl-C, or the end of the job's time.

A signal is only recorded; a run checks for it where everything is saved, and exits with code 75. This module imports
nothing heavy, so that a process can listen from its start.
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
"""Environment variable: when the job started, Unix seconds; Slurm has its own."""
PARENT_DIED = signal.SIGUSR2
"""Signal to the processes of a launch if their parent is killed: they exit at once, since no one waits for them."""

_PROCESS_START = time.time()
_SAME_PRESS_SECONDS = 2.0
"""torchrun forwards a Ctrl-C that its processes have already received from the terminal."""


class StoppedEarly(BaseException):
    """Everything is saved, and the same command continues."""


class StopRequest:
    """Records whether this process was asked to stop.

    Attributes:
        deadline: time at which to stop, Unix seconds.
    """

    def __init__(self) -> None:
        self.deadline = math.inf
        self._signal: signal.Signals | None = None
        self._pressed = 0.0
        self._owner = os.getpid()

    def listen(self) -> StopRequest:
        """Record SIGUSR1, SIGTERM and Ctrl-C from here on; a second Ctrl-C interrupts."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        return self

    def leave_at_once(self) -> StopRequest:
        """Raise StoppedEarly at the first signal from here on: for work that saves every piece as it finishes it."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, PARENT_DIED):
            signal.signal(number, self._leave)
        if self._signal is not None:
            raise StoppedEarly(self._signal.name)
        return self

    def reason(self, needed_seconds: float = 0.0) -> str | None:
        """Return why to stop, or None; ``needed_seconds`` is how long the next piece of work will take."""
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
        if self._is_fork(number) or self._signal is not None:  # the first one is unwinding the stack
            return
        self._signal = signal.Signals(number)
        raise StoppedEarly(self._signal.name)

    def _is_fork(self, number: int) -> bool:
        """Return whether this is a fork, such as a library's worker, which inherits the handlers.

        In a fork, first let the signal take its default action.
        """
        if os.getpid() == self._owner:
            return False
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return True


@contextmanager
def shielded_forks() -> Iterator[None]:
    """Block stop signals in processes that are forked inside the block, so that they finish their work.

    A scheduler sends a signal to every process of a job, and a terminal to every process in its group; it must not end
    a fork that writes a part of a checkpoint. Signals for the calling thread wait, too, until the block ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # pending signals arrive here


def job_start(environment: Mapping[str, str] = os.environ) -> float:
    """Return when the job started, Unix seconds: the online driver's job, else Slurm's, else this process."""
    return float(environment.get(JOB_START) or environment.get("SLURM_JOB_START_TIME") or _PROCESS_START)


def job_deadline(budget_seconds: float | None, environment: Mapping[str, str] = os.environ) -> float:
    """Return when a job with ``budget_seconds`` from its start ends, Unix seconds; infinity without a budget."""
    return math.inf if budget_seconds is None else job_start(environment) + budget_seconds
