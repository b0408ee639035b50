# SPDX-License-Identifier: Apache-2.0
"""The kinds of servers that we start: one file each with its command line, and where it differs from the others.

A server is another program with a Python environment of its own; nothing of it is imported here. What each of them
understands in a request is found out by asking (``probe.py``); ``docs/servers.md`` says what that is. A new one is a
``Launcher`` in a file of its own, and a line in ``LAUNCHERS``.
"""

from __future__ import annotations

from nemo_mcpo.config import Server
from nemo_mcpo.rollouts.launchers.launcher import Launcher
from nemo_mcpo.rollouts.launchers.transformers import TRANSFORMERS
from nemo_mcpo.rollouts.launchers.trtllm import TRTLLM
from nemo_mcpo.rollouts.launchers.vllm import VLLM

__all__ = ["LAUNCHERS", "Launcher", "gpus_of"]

LAUNCHERS: dict[str, Launcher] = {
    "trtllm": TRTLLM,
    "vllm": VLLM,
    "transformers": TRANSFORMERS,
}
"""By ``server.launcher``."""


def gpus_of(settings: Server) -> int:
    """GPUs that one server's model is spread over."""
    if not LAUNCHERS[settings.launcher].parallel:
        return 1
    return settings.tensor_parallel_size * settings.pipeline_parallel_size
