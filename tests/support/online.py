# SPDX-License-Identifier: Apache-2.0
"""A small online run on files, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.launch import ROOT, overrides

TRAIN_ONLINE = ROOT / "examples" / "train_gpt_onmcpo.py"
FAKE_SERVER = ROOT / "tests" / "support" / "fake_server.py"


def online_overrides(inputs: Path, run: Path, **changes: object) -> list[str]:
    """Return overrides: 4 steps of 4 prompts in 2 segments, 3 answers per prompt; ``changes`` use ``__`` for dots."""
    keys = {
        "trainer.accelerator": "cpu",
        "trainer.precision": "32",
        "trainer.mcpo.max_steps": 4,
        "onmcpo.segments": 2,
        "trainer.mcpo.save_interval": 1,
        "model.optim.sched.name": "constant",
        "model.optim.sched.warmup_steps": 0,
        "model.optim.sched.min_lr": 0.0,
        "rollouts.temperatures": "[0.8,1.0,1.2]",
        "rollouts.samples": 1,
        "rollouts.max_tokens": 16,
        "rollouts.batch_size": 8,
        "judge.kind": "rule",
        "judge.rule": "length_rule:prefers_long",
    }
    keys |= {key.replace("__", "."): value for key, value in changes.items()}
    return ["model=tiny", *overrides(inputs, run), *(f"{key}={value}" for key, value in keys.items())]


def drawn_keys(run: Path) -> list[tuple]:
    """Return the key of every stored sample."""
    shards = run.glob("segments/*/samples/samples-*.jsonl")
    entries = [json.loads(line) for shard in shards for line in shard.read_text().splitlines()]
    return [tuple(entry[name] for name in ("segment", "prompt_id", "temperature", "sample")) for entry in entries]


def verdict_keys(directory: Path) -> list[str]:
    """Return the key of every verdict stored in a run's directory or in a cache."""
    lines = [line for shard in directory.glob("verdicts/verdicts-*.jsonl") for line in shard.read_text().splitlines()]
    return [json.loads(line)["key"] for line in lines]


def ranked(run: Path) -> list[str]:
    """Return the training data of every segment."""
    return [path.read_text() for path in sorted(run.glob("segments/*/ranked.jsonl"))]
