# SPDX-License-Identifier: Apache-2.0
"""Ports of this machine: a free one, whether one is taken, and who listens on it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def is_taken(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are being closed do not count
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
        return False


def listens(port: int, session: int) -> bool:
    """Whether a process of a session listens on a port; those of other users are never seen."""
    import psutil

    listeners = {
        connection.pid
        for connection in psutil.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid
    }
    for pid in listeners:
        with suppress(ProcessLookupError):
            if os.getsid(pid) == session:
                return True
    return False
