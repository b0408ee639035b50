# SPDX-License-Identifier: Apache-2.0
"""The servers of a stage: already running ones, or our own, started together and stopped at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nemo_mcpo.config import Server
from nemo_mcpo.rollouts.client import ServerPool
from nemo_mcpo.rollouts.launchers import launcher_of
from nemo_mcpo.rollouts.server_environment import server_environment
from nemo_mcpo.rollouts.server_process import ServerProcess
from nemo_mcpo.variant import bind


@dataclass(frozen=True, slots=True)
class Serving:
    """A model behind one or more servers.

    Attributes:
        pool: client of the servers.
        model: name of the model in requests.
        own: servers that we started.
    """

    pool: ServerPool
    model: str
    own: tuple[ServerProcess, ...]

    def restart_dead(self) -> None:
        """Restart our own servers that have exited; requests to them are retried meanwhile."""
        for server in self.own:
            server.restart_if_dead()

    def num_requests(self) -> int:
        """Maximum number of requests in flight."""
        return self.pool.settings.concurrency * len(self.pool.urls)

    def close(self) -> None:
        self.pool.close()
        for server in self.own:
            server.stop()


def open_serving(settings: Server, model: str, logs: Path) -> Serving:
    """Use the running servers, or start servers for ``model`` (a directory) and wait until they are ready."""
    if settings.urls:
        return Serving(ServerPool(settings.urls, settings), model, ())
    own: list[ServerProcess] = []
    try:
        for replica in range(settings.replicas):
            own.append(_start(settings, model, replica, logs))
        for server in own:
            server.wait_until_ready(settings.ready_seconds)
    except BaseException:
        for server in own:
            server.stop()
        raise
    return Serving(ServerPool([server.url for server in own], settings), model, tuple(own))


def _start(settings: Server, model: str, replica: int, logs: Path) -> ServerProcess:
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"server-{replica}.log"
    launch = bind(launcher_of(settings).command, settings.launcher.parameters, "launcher")

    def command(port: int) -> list[str]:
        return [*settings.prefix, *launch(model, port, settings, logs)]

    return ServerProcess(command, server_environment(settings, replica), log, runs_here=not settings.prefix)
