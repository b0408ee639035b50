# SPDX-License-Identifier: Apache-2.0
"""Which server gets a request: the one that had those with the same key, or else the least busy.

A server keeps the keys and values of prompts that it has read. Six requests with one prompt read it once on one
server, and six times on six.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from typing import Protocol

MIN_SLACK, SLACK_SHARE = 8, 0.25
"""Requests, and share of ``concurrency``, that a server may have in flight beyond the least busy one before those that
belong there go elsewhere."""


class Load(Protocol):
    """What is known about a server: requests in flight, failures since its last reply, the end of its rest."""

    in_flight: int
    failures: int
    rests_until: float


class Router:
    """Not for several threads at a time.

    Args:
        concurrency: requests in flight that a server is meant to have.
    """

    def __init__(self, concurrency: int) -> None:
        self._slack = max(MIN_SLACK, int(SLACK_SHARE * concurrency))
        self._homes: dict[Hashable, int] = {}

    def choose(self, servers: Sequence[Load], key: Hashable = None) -> int:
        """The number of a server; requests with the ``key`` belong there from now on.

        Of equally busy servers one that works is chosen; one that rests gets requests only when all rest.
        """
        now = time.monotonic()
        loads = [(max(one.rests_until - now, 0.0), one.in_flight, one.failures) for one in servers]
        least = min(range(len(servers)), key=loads.__getitem__)
        home = self._homes.get(key)
        if home is not None and not loads[home][0] and loads[home][1] <= loads[least][1] + self._slack:
            return home
        if key is not None:
            self._homes[key] = least
        return least
