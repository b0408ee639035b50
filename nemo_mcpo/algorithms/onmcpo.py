# SPDX-License-Identifier: Apache-2.0
"""OnMC-PO: MC-PO in segments, each trained on answers that the policy at its start wrote and a judge ranked.

    for each of S equal segments of the run's steps:                       (arXiv 2502.04567, section 3.2)
        export    the current weights as a Hugging Face directory
        generate  answers to the prompts that the segment's steps consume, and no others
        judge     the best answer of each prompt; the others are its candidates
        train     the segment's steps; the reference is always the initial policy

Weights, optimizer, learning rate and step count carry over as in a single run. Progress is recorded on disk:

    <log_dir>/onmcpo.json                   the settings that must not change when the run is continued
    <log_dir>/segments/0/generate.json      a finished stage: its seconds and the fields of its result
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from nemo_mcpo.algorithms.segments import SegmentFiles
from nemo_mcpo.config import OnlineRunConfig
from nemo_mcpo.config.schema import settings_of
from nemo_mcpo.errors import ConfigError, RolloutError
from nemo_mcpo.judging.tally import Ranked
from nemo_mcpo.platform.command import own_rank
from nemo_mcpo.records import Trained
from nemo_mcpo.rollouts.samples import Generated
from nemo_mcpo.storage.atomic import write_json
from nemo_mcpo.storage.locks import lock_for_this_process
from nemo_mcpo.storage.manifests import refuse_another_recipe


@dataclass(frozen=True, slots=True)
class Exported:
    """Result of an export, which leaves files but no facts."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a segment; ``online_stages.WORK`` has its function.

    Attributes:
        launch: ``one`` process where training runs, one that starts ``servers``, or ``all`` training processes.
        result: the record that it leaves.
        fixed: settings that must not change once it is finished, except those in ``FREE``.
    """

    launch: Literal["one", "servers", "all"]
    result: type[Any]
    fixed: tuple[str, ...] = ()


STAGES = {
    "export": Stage("one", Exported, ("pretrained_checkpoint.restore_from_path",)),
    "generate": Stage(
        "servers",
        Generated,
        (
            "model.seed",
            "model.global_batch_size",
            "onmcpo.segments",
            "model.data.train",
            "model.data.format",
            "model.data.shuffle",
            "model.data.max_prompt_length",
            "trainer.mcpo.max_epochs",
            "trainer.mcpo.max_steps",
            "rollouts",
        ),
    ),
    "judge": Stage("servers", Ranked, ("judge.server.model", "judge")),
    "train": Stage("all", Trained),  # checks its settings itself
}
"""The stages, in the order in which they run."""
FREE = {
    "rollouts.server",
    "rollouts.batch_size",
    "judge.server",
    "judge.batch_size",
    "judge.attempts",
    "judge.max_tokens",
}
"""Settings that affect where and how fast a stage runs, but not its result."""
IDENTITY = "onmcpo.json"


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished stage: how long it took, and the record that ``STAGES`` names."""

    seconds: float
    result: Any

    def facts(self) -> dict[str, float]:
        """The facts by name, as stored on disk."""
        return {**asdict(self.result), "seconds": self.seconds}


class OnlineRun:
    """The state of an online run on disk; several processes may read it.

    Raises:
        ConfigError: the directory contains a different run.
    """

    def __init__(self, config: OnlineRunConfig) -> None:
        self.config, self.directory = config, config.exp_manager.directory
        known = self._known()
        # A key may change until a stage that reads it is finished.
        now = {name: value for stage in STAGES for name, value in self._fixed(stage).items() if name in known}
        fix = "restore it, or set a new exp_manager.explicit_log_dir to start a new run"
        refuse_another_recipe(known, now, ConfigError, "this run was started with another value", fix)

    def files(self, segment: int) -> SegmentFiles:
        """Paths that a segment's stages write."""
        return SegmentFiles(self.directory / "segments" / str(segment))

    def stages(self) -> list[tuple[int, str]]:
        """All segments and stages, in the order in which they run."""
        return [(segment, stage) for segment in range(self.config.onmcpo.segments) for stage in STAGES]

    def finished(self, segment: int, stage: str) -> Finished | None:
        """The result of a stage; None if it is not finished."""
        mark = self._mark(segment, stage)
        if not mark.exists():
            return None
        known, record = json.loads(mark.read_text()), STAGES[stage].result
        # NaN is stored as null; files of earlier versions lack some fields.
        values = [math.nan if known.get(field.name) is None else known[field.name] for field in fields(record)]
        return Finished(known["seconds"], record(*values))

    def run(self, segment: int, stage: str, work: Callable[[], object]) -> Finished:
        """Run a stage unless it is already finished.

        Raises:
            RolloutError: the previous stage is not finished.
        """
        if (known := self.finished(segment, stage)) is not None:
            return known
        self.check_turn(segment, stage)
        started = time.monotonic()
        if own_rank() == "0":
            lock_for_this_process(self.files(segment).directory / f".{stage}.lock")
        result = work()
        finished = Finished(time.monotonic() - started, result)
        if own_rank() == "0":
            write_json(self.directory / IDENTITY, self._known() | self._fixed(stage))
            write_json(self._mark(segment, stage), finished.facts())
        return finished

    def check_turn(self, segment: int, stage: str) -> None:
        """Raise if the previous stage is not finished."""
        order = self.stages()
        if (segment, stage) not in order:
            expected = f"0 to {self.config.onmcpo.segments - 1}"
            raise ConfigError("no such segment", where="--segment", got=segment, expected=expected)
        place = order.index((segment, stage))
        before = order[place - 1] if place else None
        if before is not None and self.finished(*before) is None:
            raise RolloutError(
                f"segment {before[0]}: {before[1]} is not finished",
                where=str(self.files(before[0]).directory),
                fix=f"run it before {stage} of segment {segment}, or run all stages with examples/train_gpt_onmcpo.py",
            )

    def _mark(self, segment: int, stage: str) -> Path:
        return self.files(segment).directory / f"{stage}.json"

    def _known(self) -> dict[str, object]:
        path = self.directory / IDENTITY
        return json.loads(path.read_text()) if path.exists() else {}

    def _fixed(self, stage: str) -> dict[str, object]:
        return settings_of(self.config, *STAGES[stage].fixed, without=FREE)
