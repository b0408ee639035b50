# SPDX-License-Identifier: Apache-2.0
"""A server process that we start: its port, log, readiness, restarts and shutdown."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.platform.children import start_child, stop_child
from nemo_mcpo.platform.ports import free_port, is_taken, listens
from nemo_mcpo.rollouts.launchers.launcher import HOST
from nemo_mcpo.storage.private_files import open_private

_POLL_SECONDS = 0.5
_LINES_SHOWN = 12
MAX_STARTS = 5
_PORT_TAKEN = "address already in use"
_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy for what runs on this machine


class ServerProcess:
    """Starts a server immediately; call ``wait_until_ready`` before using it.

    Args:
        command: takes a port, returns program and arguments.
        log: file to which its output is appended.
        runs_here: whether the program or a child of it listens on the port, so that any other listener is not our
            server. False with a prefix, which may start it elsewhere (a Slurm step, a container's daemon).
    """

    def __init__(
        self, command: Callable[[int], list[str]], environment: Mapping[str, str], log: Path, runs_here: bool = True
    ) -> None:
        self._command, self.environment, self.log, self.runs_here = command, environment, log, runs_here
        self.starts = 0
        self._start(free_port())

    @property
    def url(self) -> str:
        """The base URL of its interface; the port may change until it is ready."""
        return f"http://{HOST}:{self.port}/v1"

    def _start(self, port: int) -> None:
        """Start it; raise RolloutError if it was started too many times."""
        if self.starts >= MAX_STARTS:
            raise self._failure(
                f"the server exited {self.starts} times, the last time with code {self._process.returncode}"
            )
        if self.starts:
            stop_child(self._process)  # its child processes may still run and hold memory
        self.starts += 1
        self.port = port
        command = self._command(port)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_private(self.log, "ab") as output:
                self._process: subprocess.Popen = start_child(command, environment=self.environment, output=output)
        except OSError as error:
            raise RolloutError(
                "cannot start the server's program",
                where="server.command",
                got=f"{command[0]}: {error.strerror}",
                fix="set it to the program's path in the environment where it is installed",
            ) from error

    def wait_until_ready(self, seconds: float) -> None:
        """Wait until ``/health`` of our own process succeeds; if its port is taken, restart it on another one.

        Raises:
            RolloutError: it exited or took too long; the last lines of its log are printed.
        """
        deadline = time.monotonic() + seconds
        while not self.is_healthy():
            code = self._process.poll()
            somebody_else_answers = code is None and self._answers() and not self._is_ours()
            if somebody_else_answers or (code and self._port_was_taken()):
                print(f"port {self.port} is taken by another process; restarting the server on a new port", flush=True)
                self._start(free_port())
            elif code is not None and (code < 0 or code > 128):  # killed from outside
                self._start(self.port)
            elif code is not None:
                raise self._failure(f"the server exited with code {code} before it was ready")
            if time.monotonic() > deadline:
                raise self._failure(f"the server was not ready within {seconds:.0f} s")
            time.sleep(_POLL_SECONDS)

    def is_healthy(self) -> bool:
        """Whether our process is alive and reports that it can answer."""
        return self._process.poll() is None and self._answers() and self._is_ours()

    def _answers(self) -> bool:
        try:
            with _LOCAL.open(f"http://{HOST}:{self.port}/health", timeout=5.0) as answer:
                return answer.status == 200
        except OSError:  # nobody listens, or another status
            return False

    def _is_ours(self) -> bool:
        """Whether the listener on the port is our process, as far as we can tell."""
        return not self.runs_here or listens(self.port, session=self._process.pid)

    def _port_was_taken(self) -> bool:
        return is_taken(self.port) or any(_PORT_TAKEN in line.lower() for line in self._last_lines())

    def restart_if_dead(self) -> None:
        """Restart it on the same port if it has exited; raise RolloutError if that happens repeatedly."""
        if self._process.poll() is not None:
            self._start(self.port)

    def stop(self) -> None:
        """Stop it and all its child processes."""
        stop_child(self._process)

    def _last_lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()[-_LINES_SHOWN:]

    def _failure(self, what: str) -> RolloutError:
        lines = self._last_lines()
        print(*(f"    {line}" for line in lines), sep="\n", flush=True)
        return RolloutError(what, where=str(self.log), got=lines[-1] if lines else "an empty log", fix="see the log")
