# SPDX-License-Identifier: Apache-2.0
"""The kinds of servers that we can start: one file each, with its command line and how it differs from the others.

A server is a separate program with its own Python environment; nothing of it is imported here. ``probe.py`` finds out
what a server understands; ``docs/servers.md`` lists the differences. To add a kind, put a ``Launcher`` in a new file,
and add a line to ``LAUNCHERS``.
"""

from __future__ import annotations

from nemo_mcpo.config import Server
from nemo_mcpo.rollouts.launchers.launcher import Launcher
from nemo_mcpo.rollouts.launchers.transformers import TRANSFORMERS
from nemo_mcpo.rollouts.launchers.trtllm import TRTLLM
from nemo_mcpo.rollouts.launchers.vllm import VLLM

__all__ = ["LAUNCHERS", "Launcher", "gpus_of", "launcher_of"]

LAUNCHERS: dict[str, Launcher] = {
    "trtllm": TRTLLM,
    "vllm": VLLM,
    "transformers": TRANSFORMERS,
}
"""The launchers, by ``server.launcher``."""


def launcher_of(settings: Server) -> Launcher:
    """Return the entry that the settings name."""
    return LAUNCHERS[settings.launcher.name]


def gpus_of(settings: Server) -> int:
    """Number of GPUs that one server's model is spread over."""
    if not launcher_of(settings).parallel:
        return 1
    return settings.tensor_parallel_size * settings.pipeline_parallel_size
