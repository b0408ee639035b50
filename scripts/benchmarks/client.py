# SPDX-License-Identifier: Apache-2.0
"""Benchmark of the client: how fast one process reads server replies, which limits a judge with faster servers.

One word counts as one token, in canned replies and in those of a real server.
"""

from __future__ import annotations

import time
from functools import partial
from statistics import median

from nemo_mcpo.platform.workers import in_threads
from nemo_mcpo.rollouts.completions import converse
from nemo_mcpo.rollouts.serving import Serving

QUESTION_CHARACTERS = 4800
"""About 1,200 tokens, the size of a comparison."""


def measure_client(serving: Serving, replies: int, max_tokens: int, turns: int) -> dict:
    """Request ``replies`` chats per turn, ``server.concurrency`` at a time.

    Returns:
        Medians over the turns: ``tokens_per_second``, ``replies_per_second`` and ``cpu_milliseconds`` of this process
        per reply. Also tokens per second of the ``slowest`` and ``fastest`` turn, and what was requested.
    """
    question = [{"role": "user", "content": "word " * (QUESTION_CHARACTERS // 5)}]
    request = partial(
        converse, model=serving.model, messages=question, temperature=0.0, top_p=1.0, max_tokens=max_tokens, seed=0
    )

    def ask(_: int) -> int:
        return len(serving.pool.ask(request).text.split())

    speeds = []
    for _ in range(1 + turns):  # the first turn opens connections
        started, cpu = time.perf_counter(), time.process_time()
        tokens = [count for some in in_threads(ask, range(replies), serving.num_requests()) for count in some]
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        speeds.append((sum(tokens) / seconds, len(tokens) / seconds, 1000 * cpu / len(tokens)))
    measured = speeds[1:]
    middle = [median(values) for values in zip(*measured, strict=True)]
    return {
        "replies": replies,
        "in_flight": serving.num_requests(),
        "tokens_a_reply": sum(tokens) / len(tokens),
        **dict(zip(("tokens_per_second", "replies_per_second", "cpu_milliseconds"), middle, strict=True)),
        "slowest": min(speed for speed, *_ in measured),
        "fastest": max(speed for speed, *_ in measured),
    }


def table(report: dict) -> str:
    """Format the report as one line for people."""
    return (
        f"{report['replies']} replies of {report['tokens_a_reply']:.0f} tokens, {report['in_flight']} in flight: "
        f"{report['tokens_per_second']:,.0f} tokens/s ({report['slowest']:,.0f}–{report['fastest']:,.0f}), "
        f"{report['replies_per_second']:.0f} replies/s, "
        f"{report['cpu_milliseconds']:.2f} ms of CPU per reply"
    )
