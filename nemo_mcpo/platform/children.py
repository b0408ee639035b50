# SPDX-License-Identifier: Apache-2.0
"""Child processes that do not outlive this one, even when it is killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_STOP_SECONDS = 20.0


def start_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    output: IO | None = None,
    parent_died: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen:
    """Start a program that gets ``parent_died`` when the thread that called this ends, however it ends (Linux).

    It leads a process group of its own, so that ``stop_child`` reaches what it has started in turn.
    """
    # Looked up here: after the fork another thread's locks may be held for ever.
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    parent = os.getpid()

    def die_with_parent() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, parent_died)
            if os.getppid() != parent:  # it ended before the call above
                os._exit(1)

    return subprocess.Popen(
        command,
        env=None if environment is None else dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=die_with_parent,  # this thread holds no lock that the child could need
    )


def stop_child(process: subprocess.Popen) -> None:
    """End a child and what it has started: politely, then by force."""
    _signal_group(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
