# SPDX-License-Identifier: Apache-2.0
"""Validation against a direct computation from the same log-probs."""

from __future__ import annotations

import math

import pytest
import torch

from nemo_mcpo.algorithms.negatives import draw
from nemo_mcpo.algorithms.validation import num_validation_prompts
from tests.support.configs import checked
from tests.support.small_run import NUM_COMPLETIONS, small_trainer, write_tokens

pytestmark = pytest.mark.usefixtures("one_process")

BETA, NUM_PROMPTS = 0.1, 7


@pytest.mark.parametrize(
    ("limit", "num_prompts", "expected"),
    [(1.0, 100, 100), (0.25, 100, 25), (0.5, 7, 4), (1, 100, 16), (3, 100, 48), (10, 100, 100), (1e-6, 100, 1)],
)
def test_limit(limit, num_prompts, expected):
    config = checked({"trainer.mcpo.limit_val_batches": limit})
    assert config.model.global_batch_size == 16
    assert num_validation_prompts(config, num_prompts) == expected


@pytest.fixture
def trained(tmp_path, llama_directory):
    """A function that takes a limit and returns a trainer after two steps, with held-out prompts."""
    write_tokens(tmp_path / "validation.jsonl", num_prompts=NUM_PROMPTS, seed=9)

    def make(**changes):
        trainer = small_trainer(
            tmp_path,
            llama_directory,
            model__mcpo__num_negatives=2,
            model__data__validation=str(tmp_path / "validation.jsonl"),
            trainer__mcpo__max_steps=2,
            **changes,
        )
        trainer.fit()
        return trainer

    return make


def expected_metrics(trainer, num_prompts: int) -> dict[str, float]:
    """Averages over prompts: reward metrics over all candidates, loss over the negatives drawn in epoch 0."""
    source = trainer.validation
    trees = [source.dataset[index] for index in range(num_prompts)]
    totals: dict[str, list[float]] = {}
    for tree in trees:
        rewards = (trainer.model.log_probs([tree]) - source.ref_logps_BK([tree]))[0]
        columns = draw(trainer.sampling, [tree], [0], torch.zeros_like(rewards[None]), rewards[None]).columns_bM[0]
        chosen, candidates = rewards[0].item(), rewards[1:].tolist()
        total = sum(math.exp(BETA * reward) for reward in candidates)
        weights = [math.exp(BETA * reward) / total for reward in candidates]
        values = {
            "val_loss": math.log(1 + sum(math.exp(BETA * (rewards[column].item() - chosen)) for column in columns)),
            "val_rewards/chosen": chosen,
            "val_rewards/rejected": sum(candidates) / len(candidates),
            "val_rewards/margin": chosen - sum(candidates) / len(candidates),
            "val_rewards/accuracy": sum(chosen > reward for reward in candidates) / len(candidates),
            "val_kernel/ess": 1 / sum(weight**2 for weight in weights),
            "val_kernel/entropy": -sum(weight * math.log(weight) for weight in weights),
            "val_negatives/count": NUM_COMPLETIONS - 1,
            "val_negatives/none": 0.0,
        }
        for name, value in values.items():
            totals.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in totals.items()}


@pytest.mark.parametrize(("limit", "num_prompts"), [(1.0, NUM_PROMPTS), (1, 4), (0.3, 3)])
def test_metrics(trained, limit, num_prompts):
    trainer = trained(trainer__mcpo__limit_val_batches=limit)
    found = trainer.run_validation()
    expected = expected_metrics(trainer, num_prompts)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert trainer.log.lines[-1]["val_loss"] == found["val_loss"]


def test_it_changes_nothing(trained):
    trainer = trained()
    before = [parameter.clone() for parameter in trainer.model.chunks[0].parameters()]
    assert trainer.run_validation() == trainer.run_validation()
    assert all(
        torch.equal(parameter, old)
        for parameter, old in zip(trainer.model.chunks[0].parameters(), before, strict=True)
    )
    assert all(chunk.training for chunk in trainer.model.wrapped)


def test_without_data_there_is_none(tmp_path, llama_directory):
    trainer = small_trainer(tmp_path, llama_directory)
    assert trainer.run_validation() == {}


def test_sft(tmp_path, llama_directory):
    write_tokens(tmp_path / "validation.jsonl", num_prompts=3, seed=9)
    trainer = small_trainer(
        tmp_path,
        llama_directory,
        model__mcpo__objective="sft",
        model__mcpo__num_negatives=0,
        model__data__validation=str(tmp_path / "validation.jsonl"),
    )
    trees = [trainer.validation.dataset[index] for index in range(3)]
    logps = trainer.model.log_probs(trees)[:, 0]
    expected = sum(-logps[row].item() / len(tree.completions[0]) for row, tree in enumerate(trees)) / 3
    found = trainer.run_validation()
    assert found["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert math.isnan(found["val_rewards/margin"])
