# SPDX-License-Identifier: Apache-2.0
"""OnMC-PO: MC-PO in segments, each on answers that the policy at its start writes and a judge ranks.

    for each of S equal segments of the run's steps:                       (arXiv 2502.04567, section 3.2)
        export    the current weights as a Hugging Face directory
        generate  answers to exactly the prompts that the segment's steps consume
        judge     the best answer of each prompt; the others are its candidates
        train     the segment's steps; the reference is always the initial policy

Weights, optimizer, learning rate and step count carry on as in one run. What is done stands on disk:

    <log_dir>/onmcpo.json                   what must stay the same for a continued run to be the same run
    <log_dir>/segments/0/generate.json      a finished stage: its seconds, and its facts
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nemo_mcpo.algorithms.segments import SegmentFiles
from nemo_mcpo.config import OnlineRunConfig
from nemo_mcpo.errors import ConfigError, RolloutError
from nemo_mcpo.platform.command import own_rank
from nemo_mcpo.storage.atomic import write_json
from nemo_mcpo.storage.locks import lock_for_this_process
from nemo_mcpo.storage.manifests import refuse_another_recipe

STAGES = ("export", "generate", "judge", "train")
IDENTITY = "onmcpo.json"
HOW = {"server", "batch_size", "attempts"}
"""Keys of ``rollouts`` and ``judge`` that decide where and how fast, not what."""

Facts = dict[str, float]


class OnlineRun:
    """The state of an online run, on disk; several processes may look at it.

    Raises:
        ConfigError: the directory holds another run.
    """

    def __init__(self, config: OnlineRunConfig) -> None:
        self.config, self.directory = config, config.exp_manager.directory
        self._check_identity()

    def files(self, segment: int) -> SegmentFiles:
        """Where a segment's stages write."""
        return SegmentFiles(self.directory / "segments" / str(segment))

    def finished(self, segment: int, stage: str) -> Facts | None:
        """Facts of a finished stage, ``seconds`` among them; None when it is not finished."""
        mark = self._mark(segment, stage)
        return json.loads(mark.read_text()) if mark.exists() else None

    def run(self, segment: int, stage: str, work: Callable[[], Mapping[str, float]]) -> Facts:
        """Do a stage whose predecessors are finished, unless it is finished itself; returns its facts.

        Raises:
            RolloutError: a stage before is not finished.
        """
        if (known := self.finished(segment, stage)) is not None:
            return known
        self.check_turn(segment, stage)
        started = time.monotonic()
        if own_rank() == "0":
            lock_for_this_process(self.files(segment).directory / f".{stage}.lock")
        facts = dict(work())
        facts["seconds"] = time.monotonic() - started
        if own_rank() == "0":
            write_json(self.directory / IDENTITY, self._known() | identity_of(self.config, stage))
            write_json(self._mark(segment, stage), facts)
        return facts

    def check_turn(self, segment: int, stage: str) -> None:
        """Raise where a stage before this one is not finished."""
        number = self.config.onmcpo.segments
        if not 0 <= segment < number:
            expected = f"0 to {number - 1}"
            raise ConfigError("there is no such segment", where="--segment", got=segment, expected=expected)
        place = STAGES.index(stage)
        before = (segment, STAGES[place - 1]) if place else (segment - 1, STAGES[-1])
        if before[0] >= 0 and self.finished(*before) is None:
            raise RolloutError(
                f"segment {before[0]}: {before[1]} is not finished",
                where=str(self.files(before[0]).directory),
                cure=f"run that stage before {stage} of segment {segment}, or examples/train_gpt_onmcpo.py for all",
            )

    def _mark(self, segment: int, stage: str) -> Path:
        return self.files(segment).directory / f"{stage}.json"

    def _known(self) -> dict[str, object]:
        path = self.directory / IDENTITY
        return json.loads(path.read_text()) if path.exists() else {}

    def _check_identity(self) -> None:
        """Refuse to continue another run: a key is free until a stage that reads it is finished."""
        known = self._known()
        now = {name: value for stage in STAGES for name, value in identity_of(self.config, stage).items()}
        now = {name: value for name, value in now.items() if name in known}
        cure = "restore it, or give a new exp_manager.explicit_log_dir to start a new run"
        refuse_another_recipe(known, now, ConfigError, "this run was started with another value", cure)


def identity_of(config: OnlineRunConfig, stage: str) -> dict[str, object]:
    """What must stay the same once a stage is finished; training checks more, for itself."""
    if stage == "export":
        return {"pretrained_checkpoint.restore_from_path": config.pretrained_checkpoint.restore_from_path}
    if stage == "generate":
        prompts = config.model.data.model_dump(include={"train", "format", "shuffle", "max_prompt_length"})
        length = config.trainer.mcpo.model_dump(include={"max_epochs", "max_steps"})
        return {
            "model.seed": config.model.seed,
            "model.global_batch_size": config.model.global_batch_size,
            "onmcpo.segments": config.onmcpo.segments,
            **{f"model.data.{name}": value for name, value in prompts.items()},
            **{f"trainer.mcpo.{name}": value for name, value in length.items()},
            **{f"rollouts.{name}": value for name, value in config.rollouts.model_dump(exclude=HOW).items()},
        }
    if stage == "judge":
        judge = config.judge.model_dump(exclude=HOW | {"max_tokens"})
        return {"judge.server.model": config.judge.server.model} | {f"judge.{name}": judge[name] for name in judge}
    return {}
