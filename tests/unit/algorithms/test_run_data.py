# SPDX-License-Identifier: Apache-2.0
"""What a run refuses, or warns about once, before it computes anything."""

from __future__ import annotations

import json
import logging

import pytest

from nemo_mcpo.algorithms.run_data import check_budgets, open_dataset
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.models.pretrained import open_pretrained
from tests.support.small_run import small_config

TREES = [(5, [3, 2, 4]), (8, [1, 6, 2]), (4, [9, 1])]
"""Tokens of each prompt, and of its completions: 14, 17 and 14 in total."""

FULL = {"model__activations_checkpoint_granularity": "full"}

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def dataset(tmp_path, llama_directory):
    with open(tmp_path / "data.jsonl", "w", encoding="utf-8") as file:
        for number, (prompt, completions) in enumerate(TREES):
            responses = [{"ids": [number] * count, "rank": rank} for rank, count in enumerate(completions, start=1)]
            file.write(json.dumps({"prompt_ids": [number] * prompt, "responses": responses}) + "\n")
    config = small_config(tmp_path, llama_directory)
    pretrained = open_pretrained(str(llama_directory), config.model.data.cache_dir)
    return open_dataset(config, pretrained, config.model.data.train)


def test_lengths_are_bounds(dataset):
    assert dataset.lengths_with(1).tolist() == [5 + 3 + 4, 8 + 1 + 6, 4 + 9 + 9]
    assert dataset.lengths_with(2).tolist() == [5 + 3 + 8, 8 + 1 + 12, 4 + 9 + 18]


@pytest.mark.parametrize("key", ["model.micro_batch_tokens", "model.mcpo.scoring_tokens"])
def test_a_budget_below_one_prompt_is_refused(tmp_path, llama_directory, dataset, key):
    check_budgets(small_config(tmp_path, llama_directory, **{key.replace(".", "__"): 8}), dataset)
    with pytest.raises(ConfigError) as caught:
        check_budgets(small_config(tmp_path, llama_directory, **{key.replace(".", "__"): 7}), dataset)
    assert (caught.value.where, caught.value.got) == (key, 7) and f"raise {key}" in caught.value.fix
    assert caught.value.expected.startswith("at least 8, the longest prompt")


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"model__micro_batch_tokens": 17, "model__mcpo__scoring_tokens": 17}, []),
        ({"model__mcpo__scoring_tokens": 16}, ["up to 1 of 3", "scoring_tokens=16"]),
        # Whole trees count, unless layers are recomputed or scoring is not reused: then trained trees count.
        ({"model__micro_batch_tokens": 13}, ["up to 3 of 3", "micro_batch_tokens=13"]),
        ({"model__micro_batch_tokens": 13, **FULL}, ["up to 2 of 3", "micro_batch_tokens=13"]),
        ({"model__micro_batch_tokens": 13, "model__mcpo__reuse_scoring": False}, ["up to 2 of 3"]),
    ],
)
def test_one_warning_about_trees_above_a_budget(tmp_path, llama_directory, dataset, caplog, changes, messages):
    with caplog.at_level(logging.WARNING):
        check_budgets(small_config(tmp_path, llama_directory, **changes), dataset)
    assert len(caplog.messages) == bool(messages)
    assert all(text in caplog.messages[0] for text in messages)
