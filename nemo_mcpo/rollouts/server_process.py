# SPDX-License-Identifier: Apache-2.0
"""One server that we started: its port, its log, whether it is ready, and its end."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.platform.children import start_child, stop_child
from nemo_mcpo.platform.launch import free_port
from nemo_mcpo.rollouts.launchers import HOST

_POLL_SECONDS = 0.5
_LINES_SHOWN = 12
MAX_STARTS = 5
_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy for what runs on this machine


class ServerProcess:
    """Starts at once; ``wait_until_ready`` before use.

    Args:
        command: from a port to program and arguments.
        environment: of the program.
        log: file that its output is added to.
    """

    def __init__(self, command: Callable[[int], list[str]], environment: Mapping[str, str], log: Path) -> None:
        self.port = free_port()
        self.command, self.environment, self.log = command(self.port), environment, log
        self.starts = 0
        self._process = self._start()

    @property
    def url(self) -> str:
        """The base URL of its interface."""
        return f"http://{HOST}:{self.port}/v1"

    def _start(self) -> subprocess.Popen:
        self.starts += 1
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.log, "ab") as output:
                return start_child(self.command, environment=self.environment, output=output)
        except OSError as error:
            raise RolloutError(
                "the server's program cannot be started",
                where="server.command",
                got=f"{self.command[0]}: {error.strerror}",
                cure="give the path of the program, in the environment where it is installed",
            ) from error

    def wait_until_ready(self, seconds: float) -> None:
        """Wait for ``/health``.

        Raises:
            RolloutError: it ended, or took longer; with the last lines of its log.
        """
        deadline = time.monotonic() + seconds
        while not self.is_healthy():
            if (self._process.poll() or 0) < 0:  # a signal: not its own doing
                self.restart_if_dead()
            elif self._process.returncode is not None:
                raise self._failure(f"the server ended with code {self._process.returncode} before it was ready")
            if time.monotonic() > deadline:
                raise self._failure(f"the server was not ready within {seconds:.0f} s")
            time.sleep(_POLL_SECONDS)

    def is_healthy(self) -> bool:
        """Whether it says that it can answer."""
        try:
            with _LOCAL.open(f"http://{HOST}:{self.port}/health", timeout=5.0) as answer:
                return answer.status == 200
        except OSError:  # nobody listens, or another status
            return False

    def restart_if_dead(self) -> None:
        """Start it again, on the same port, when it ended; RolloutError when it does so again and again."""
        if self._process.poll() is None:
            return
        if self.starts >= MAX_STARTS:
            raise self._failure(f"the server ended {self.starts} times, the last time with {self._process.returncode}")
        stop_child(self._process)  # what it started may live on, with its memory
        self._process = self._start()

    def stop(self) -> None:
        """End it and all that it started."""
        stop_child(self._process)

    def _failure(self, what: str) -> RolloutError:
        lines = self.log.read_text(errors="replace").splitlines()[-_LINES_SHOWN:]
        print(*(f"    {line}" for line in lines), sep="\n", flush=True)
        return RolloutError(what, where=str(self.log), got=lines[-1] if lines else "an empty log", cure="read the log")
