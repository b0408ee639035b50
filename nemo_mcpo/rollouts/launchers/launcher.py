# SPDX-License-Identifier: Apache-2.0
"""Description of one kind of server: how to start it, and how it differs from the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Launcher:
    """One kind of server; also describes servers that are already running (``server.urls``).

    Attributes:
        command: takes a model's directory, a port, the settings, a directory for files, and the kind's own parameters
            by keyword (``variant.bind``); returns program and arguments.
        parallel: whether it spreads a model over several GPUs and limits batches and lengths by the settings.
        needs_gpu: whether it cannot run on CPUs.
        warm: fields without which it ignores a temperature above 0, unless the directory's ``generation_config.json``
            sets ``do_sample``.
        loads_by_name: if started without a model, it loads whatever directory a request names; ``/v1/models`` lists
            what is loaded so far.
        chunks_prompts_with: the argument without which a prompt must fit into one step (``max_num_tokens``); empty
            if prompts are always split.
        fraction_of_all_memory: whether ``kv_cache_fraction`` refers to a GPU's whole memory, including weights, rather
            than to what the weights leave.
    """

    command: Callable[..., list[str]]
    parallel: bool
    needs_gpu: bool = False
    warm: Mapping[str, Any] = field(default_factory=dict)
    loads_by_name: bool = False
    chunks_prompts_with: str = ""
    fraction_of_all_memory: bool = False


def words(options: Mapping[str, object]) -> list[str]:
    """Flatten options and their values into command-line arguments."""
    return [word for name, value in options.items() for word in (name, str(value))]
