# SPDX-License-Identifier: Apache-2.0
"""The interface of rollout engines, and of entries in the table of engines."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nemo_mcpo.config import OnlineRunConfig
from nemo_mcpo.rollouts.fit import Machine
from nemo_mcpo.rollouts.samples import Sample, SampleKey, SampleRequest


class Engine(Protocol):
    """Generates answers with a policy."""

    def generate(self, requests: Sequence[SampleRequest], done: Container[SampleKey]) -> Iterator[list[Sample]]:
        """Yield samples as they finish, skipping those that are ``done``.

        ``requests`` are all requests of a round, done or not, so that an engine that works in batches forms the same
        batches after an interruption.
        """

    def close(self) -> None:
        """Release servers and memory."""


Preflight = Callable[[OnlineRunConfig, Machine, Mapping[str, str] | None], Sequence[str]]
"""Takes the directories of the policies by name (None: the policy that the run starts from); returns notes for the
user."""


@dataclass(frozen=True, slots=True)
class EngineKind:
    """One kind of engine.

    Attributes:
        build: takes the policy's Hugging Face directory, the section ``rollouts``, the sampling settings, a directory
            for logs, and the kind's own parameters by keyword (``variant.bind``).
        needs_text: whether the engine needs prompts as text in addition to their tokens.
        check: raises ConfigError if keys do not fit each other.
        preflight: raises ConfigError if something on this machine is missing or does not fit.
    """

    build: Callable[..., Engine]
    needs_text: bool = False
    check: Callable[[OnlineRunConfig], None] = lambda config: None
    preflight: Preflight = lambda config, machine, policies: ()
