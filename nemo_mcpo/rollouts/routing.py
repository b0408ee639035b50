# SPDX-License-Identifier: Apache-2.0
"""Routes each request to the server that got earlier ones with the same key, or else to the least busy server.

Servers cache the attention keys and values of prompts. Six requests with one prompt compute it once if they go to one
server, and six times if they go to six.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from typing import Protocol

MIN_SLACK, SLACK_SHARE = 8, 0.25
"""How many requests (at least, and as a share of ``concurrency``) a server may have in flight beyond the least busy
server before its own keys are routed elsewhere."""


class Load(Protocol):
    """The load of a server: requests in flight, failures since its last reply, and when it may be used again."""

    in_flight: int
    failures: int
    rests_until: float


class Router:
    """Chooses servers; not thread-safe.

    Args:
        concurrency: intended number of requests in flight per server.
    """

    def __init__(self, concurrency: int) -> None:
        self._slack = max(MIN_SLACK, int(SLACK_SHARE * concurrency))
        self._homes: dict[Hashable, int] = {}

    def choose(self, servers: Sequence[Load], key: Hashable = None) -> int:
        """Choose a server by number, and remember it for later requests with the same ``key``.

        Among equally busy servers, those without failures are preferred. Resting servers are used only if all rest.
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
