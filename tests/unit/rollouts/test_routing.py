# SPDX-License-Identifier: Apache-2.0
"""Requests with the same key share a server while servers are about equally busy."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from nemo_mcpo.rollouts.routing import MIN_SLACK, Router


@dataclass
class Server:
    in_flight: int = 0
    failures: int = 0
    rests_until: float = 0.0


def start(router: Router, servers: list[Server], key) -> int:
    chosen = router.choose(servers, key)
    servers[chosen].in_flight += 1
    return chosen


def test_a_prompts_requests_share_a_server_and_servers_share_the_prompts():
    servers, router = [Server() for _ in range(4)], Router(concurrency=32)
    homes = {prompt: {start(router, servers, prompt) for _ in range(6)} for prompt in range(20)}
    assert all(len(home) == 1 for home in homes.values())
    assert Counter(home for own in homes.values() for home in own) == {0: 5, 1: 5, 2: 5, 3: 5}


def test_a_busy_server_is_left_and_the_next_one_kept():
    servers, router = [Server(), Server()], Router(concurrency=4)
    assert [start(router, servers, "a") for _ in range(MIN_SLACK + 1)] == [0] * (MIN_SLACK + 1)
    assert [start(router, servers, "a") for _ in range(3)] == [1, 1, 1]
    servers[0].in_flight = 0
    assert router.choose(servers, "a") == 1


def test_the_slack_grows_with_the_concurrency():
    servers, router = [Server(in_flight=64), Server()], Router(concurrency=256)
    router._homes["a"] = 0
    assert router.choose(servers, "a") == 0
    servers[0].in_flight += 1
    assert router.choose(servers, "a") == 1


def test_a_resting_server_is_avoided_unless_all_rest():
    soon, late = time.monotonic() + 50.0, time.monotonic() + 90.0
    servers, router = [Server(), Server(in_flight=5)], Router(concurrency=4)
    assert router.choose(servers, "a") == 0
    servers[0].rests_until = soon
    assert router.choose(servers, "a") == 1
    servers[1].rests_until = late
    assert router.choose(servers, "a") == 0


def test_without_a_key_the_least_busy_that_works():
    servers, router = [Server(in_flight=1), Server(failures=1), Server()], Router(concurrency=4)
    assert router.choose(servers) == 2
    servers[2].in_flight = 2
    assert router.choose(servers) == 1
