# SPDX-License-Identifier: Apache-2.0
"""What a rollout engine is, and what an entry of the table of engines says about one."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nemo_mcpo.config import OnlineRunConfig, Rollouts
from nemo_mcpo.rollouts.fit import Machine
from nemo_mcpo.rollouts.samples import Sample, SampleKey, SampleRequest, Sampling


class Engine(Protocol):
    """What generates."""

    def load(self, directory: str) -> None:
        """Take the policy of a Hugging Face directory."""

    def generate(self, requests: Sequence[SampleRequest], done: Container[SampleKey]) -> Iterator[list[Sample]]:
        """Samples as they finish; what is ``done`` is not generated again.

        ``requests`` are all of a round, done or not, so that an engine which works in batches cuts the same ones
        after an interruption.
        """

    def close(self) -> None:
        """Give back what ``load`` took."""


Preflight = Callable[[OnlineRunConfig, Machine, Mapping[str, str] | None], Sequence[str]]
"""From the policies' directories by name (None: the policy that the run starts from) to lines for the user."""


@dataclass(frozen=True, slots=True)
class EngineKind:
    """One kind of engine.

    Attributes:
        build: from ``rollouts``, how samples are drawn, and a directory for logs.
        needs_words: it is given prompts as text beside their tokens.
        check: raises ConfigError where keys do not fit each other.
        preflight: raises ConfigError where something on this machine is missing or does not fit.
    """

    build: Callable[[Rollouts, Sampling, Path], Engine]
    needs_words: bool = False
    check: Callable[[OnlineRunConfig], None] = lambda config: None
    preflight: Preflight = lambda config, machine, policies: ()
