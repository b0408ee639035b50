# SPDX-License-Identifier: Apache-2.0
"""Child processes that do not outlive this one, even if it is killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import IO, Protocol

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Looked up at import: after a fork, a lock that another thread held is never released.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_STOP_SECONDS = 20.0


class Child(Protocol):
    """The part of ``subprocess.Popen`` that a launch needs."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int, /) -> None: ...


def start_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    output: IO | None = None,
    parent_died: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen:
    """Start a program that receives ``parent_died`` when the calling thread ends, however it ends (on Linux).

    The program leads its own process group, so that ``stop_child`` also reaches the processes that it starts.
    """
    parent = os.getpid()
    return subprocess.Popen(
        command,
        env=None if environment is None else dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=partial(die_with_parent, parent, parent_died),  # takes no lock that another thread could hold
    )


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """In a child, request this signal for when the thread that forked it ends (on Linux; a no-op elsewhere)."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # the parent ended before the call above
            os._exit(1)


def stop_child(process: Child) -> None:
    """Stop a child and the processes in its group with SIGTERM, and with SIGKILL after at most 20 seconds."""
    _signal_group(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: Child, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
