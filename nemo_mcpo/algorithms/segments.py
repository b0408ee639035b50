# SPDX-License-Identifier: Apache-2.0
"""The segments of an online run: which steps each one trains, and where its files are.

<log_dir>/segments/0/policy-0/       the weights that segment 0 starts from, as a Hugging Face directory
                     samples/        the policy's answers
                     ranked.jsonl    the answers as token ids, best first
                     logs/           logs of the servers that the run started
                     export.json, generate.json, judge.json, train.json    finished stages
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from nemo_mcpo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps ``first_step`` … ``last_step - 1`` of a run, counted from 0."""

    first_step: int
    last_step: int


@dataclass(frozen=True, slots=True)
class SegmentFiles:
    """Paths that a segment's stages read and write."""

    directory: Path

    @property
    def policy(self) -> Path:
        # The name differs by segment: servers list a model by the name of its directory.
        return self.directory / f"policy-{self.directory.name}"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def samples(self) -> Path:
        return self.directory / "samples"

    @property
    def ranked(self) -> Path:
        return self.directory / "ranked.jsonl"


def split_steps(num_steps: int, num_segments: int) -> list[Segment]:
    """Split a run into segments whose lengths differ by at most one step.

    >>> [(part.first_step, part.last_step) for part in split_steps(8, 3)]
    [(0, 2), (2, 5), (5, 8)]
    """
    if num_segments > num_steps:
        raise ConfigError(
            "more segments than steps",
            where="onmcpo.segments",
            got=num_segments,
            expected=f"at most {num_steps}",
            fix="lower onmcpo.segments or train longer",
        )
    starts = [number * num_steps // num_segments for number in range(num_segments + 1)]
    return [Segment(*steps) for steps in pairwise(starts)]
