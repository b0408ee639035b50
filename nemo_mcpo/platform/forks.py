# SPDX-License-Identifier: Apache-2.0
"""Runs Python programs as forks of this process, which has imported torch, NeMo and megatron-core for all of them.

Importing takes about ten seconds of CPU time, more than the work in most stages of a small run. Only for programs that
run on a CPU: a fork cannot use its parent's CUDA context. The parent must not run other threads.
"""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import IO, NoReturn

from nemo_mcpo.platform.children import die_with_parent
from nemo_mcpo.platform.command import quiet_dependencies

_POLL_SECONDS = 0.01
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def preload(modules: Sequence[str]) -> None:
    """Import modules that the programs will import."""
    quiet_dependencies()
    for module in modules:
        import_module(module)


class Fork:
    """A running fork, with the part of ``subprocess.Popen`` that its users need."""

    def __init__(self, pid: int, command: Sequence[str]) -> None:
        self.pid, self.args = pid, command
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal that killed it), or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the fork to end, and return its exit code.

        Raises:
            subprocess.TimeoutExpired: the fork still runs after ``timeout`` seconds.
        """
        started = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - started > timeout:
                raise subprocess.TimeoutExpired(list(self.args), timeout)
            time.sleep(_POLL_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the fork has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def start_fork(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    output: IO | None = None,
    parent_died: signal.Signals = signal.SIGTERM,
) -> Fork:
    """Run ``[python, script, *arguments]`` as ``children.start_child`` does, but in a fork of this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    # Blocked until the fork has dropped this process's handlers, which must not handle its signals.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _run(command, environment, output, parent, parent_died, mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return Fork(pid, command)


def _run(
    command: Sequence[str],
    environment: Mapping[str, str] | None,
    output: IO | None,
    parent: int,
    parent_died: signal.Signals,
    mask: set[int | signal.Signals],
) -> NoReturn:
    """In the child, become the program; never return to the parent's code."""
    code = 1
    try:
        atexit._clear()  # drop the parent's functions
        os.setsid()
        die_with_parent(parent, parent_died)
        for number in _SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if output is not None:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        _set_num_threads()
        code = _run_script(command[1], command[1:])
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _run_script(script: str, argv: Sequence[str]) -> int:
    """Run a script as ``python script`` would, and return its exit code."""
    sys.argv = list(argv)
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0
        print(leaving.code, file=sys.stderr)
        return 1
    return 0


def _set_num_threads() -> None:
    """Apply the fork's OMP_NUM_THREADS, since OpenMP read the parent's when the parent imported torch."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
