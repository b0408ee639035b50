# SPDX-License-Identifier: Apache-2.0
"""A small run in this process: a data file of token ids, and a trainer with a small model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nemo_mcpo.algorithms.checkpointing import TrainerState
from nemo_mcpo.algorithms.mcpo import MCPOTrainer
from nemo_mcpo.algorithms.run import INITIAL_WEIGHTS, assemble_trainer
from nemo_mcpo.algorithms.run_data import open_dataset, whole_run
from nemo_mcpo.config import RunConfig
from nemo_mcpo.models.pretrained import open_pretrained
from nemo_mcpo.platform.stopping import StopRequest
from tests.support.configs import checked

NUM_COMPLETIONS = 5


class Records:
    """Replaces ``RunLog`` and ``CheckpointManager``: keeps what the trainer writes and saves."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []
        self.states: list[TrainerState] = []
        self.prompts: list[dict[str, object]] = []
        self.beats: list[tuple[str, int, int]] = []
        self.heartbeat = self

    def beat(self, doing: str, done: int, of: int) -> None:
        self.beats.append((doing, done, of))

    def save_prompts(self, step: int, prompts: list[dict[str, object]]) -> None:
        self.prompts = prompts

    def save(self, model, state: TrainerState) -> None:
        self.states.append(state)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self.lines.append({"step": step, **metrics})


def write_tokens(
    path: Path,
    num_prompts: int = 12,
    num_completions: int = NUM_COMPLETIONS,
    vocab_size: int = 300,
    seed: int = 0,
    scores: bool = False,
) -> Path:
    """Write a file in the format ``tokens``: random prompts of 2 to 8 tokens, and ranked responses of 1 to 8."""
    random = np.random.default_rng(seed)

    def ids(fewest: int) -> list[int]:
        return random.integers(0, vocab_size, random.integers(fewest, 9)).tolist()

    with open(path, "w", encoding="utf-8") as file:
        for _ in range(num_prompts):
            responses = [{"ids": ids(1), "rank": rank + 1} for rank in range(num_completions)]
            for response in responses if scores else ():
                response["score"] = (num_completions - response["rank"]) / 2
            file.write(json.dumps({"prompt_ids": ids(2), "responses": responses}) + "\n")
    return path


def small_config(directory: Path, model: Path, **changes: object) -> RunConfig:
    """Return the configuration of a run on ``directory/data.jsonl``; ``changes`` are keys with ``__`` for dots."""
    keys = {
        "trainer.mcpo.max_steps": 3,
        "exp_manager.explicit_log_dir": str(directory / "run"),
        "pretrained_checkpoint.restore_from_path": str(model),
        "model.global_batch_size": 4,
        "model.data.train": str(directory / "data.jsonl"),
        "model.data.format": "tokens",
        "model.data.drop_ranks": [],
        "model.data.max_prompt_length": 32,
        "model.data.max_length": 64,
        "model.data.cache_dir": str(directory / "cache"),
        "model.mcpo.beta": 0.1,
        "model.optim.lr": 1e-3,
    }
    return checked(keys | changes)


def small_trainer(directory: Path, model_directory: Path, **changes: object) -> MCPOTrainer:
    """Return a trainer as ``run_mcpo`` assembles it, which keeps metrics and states in memory (``trainer.log``)."""
    config = small_config(directory, model_directory, **changes)
    if not (directory / "data.jsonl").exists():
        write_tokens(directory / "data.jsonl")
    pretrained = open_pretrained(config.pretrained_checkpoint.restore_from_path, config.model.data.cache_dir)
    data = whole_run(config, pretrained)
    held_out = config.model.data.validation
    validation = open_dataset(config, pretrained, held_out) if held_out else None
    records = Records()
    identity = {INITIAL_WEIGHTS: "weights"}
    return assemble_trainer(config, pretrained, data, validation, records, records, identity, StopRequest())[0]
