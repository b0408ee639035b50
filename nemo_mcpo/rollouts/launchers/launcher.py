# SPDX-License-Identifier: Apache-2.0
"""What is known about one kind of server: how it is started, and where it differs from others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_mcpo.config import Server

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Launcher:
    """One kind of server; also of servers that somebody else started (``server.urls``).

    Attributes:
        command: program and arguments, from a model's directory, a port, the settings and a directory for files.
        parallel: it spreads a model over several GPUs, and limits batches and lengths as the settings say.
        needs_gpu: it does not run on CPUs.
        warm: fields without which it ignores a temperature above 0, unless the directory's ``generation_config.json``
            says ``do_sample``.
        loads_by_name: started without a model, it loads whatever directory a request names; ``/v1/models`` lists what
            is loaded so far.
        chunks_prompts_with: the argument without which a prompt must fit into one step (``max_num_tokens``); empty
            where prompts are always split.
        fraction_of_all_memory: ``kv_cache_fraction`` is of a GPU's whole memory, weights included, not of what the
            weights leave.
    """

    command: Callable[[str, int, Server, Path], list[str]]
    parallel: bool
    needs_gpu: bool = False
    warm: Mapping[str, Any] = field(default_factory=dict)
    loads_by_name: bool = False
    chunks_prompts_with: str = ""
    fraction_of_all_memory: bool = False


def words(options: Mapping[str, object]) -> list[str]:
    """Options and their values as arguments of a command."""
    return [word for name, value in options.items() for word in (name, str(value))]
