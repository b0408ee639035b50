# SPDX-License-Identifier: Apache-2.0
"""Ports of this machine: finds a free one, and tells whether one is taken and who listens on it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a port that no process listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def is_taken(port: int) -> bool:
    """Return whether some process listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are being closed do not count
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
        return False


def listens(port: int, session: int) -> bool:
    """Return whether a process in a session listens on a port; processes of other users are invisible."""
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
