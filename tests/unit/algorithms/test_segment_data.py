# SPDX-License-Identifier: Apache-2.0
"""A segment's prompts are those that its steps consume; its trees are indexed by the run's prompt numbers."""

from __future__ import annotations

import json

import pytest

from nemo_mcpo.algorithms.segment_data import open_prompts, prompts_of, segment_data, segment_of
from nemo_mcpo.algorithms.segments import SegmentFiles
from nemo_mcpo.config import OnlineRunConfig, parse_config
from nemo_mcpo.data.order import PromptStream
from nemo_mcpo.errors import RolloutError
from nemo_mcpo.models.pretrained import open_pretrained
from tests.support.configs import online
from tests.support.small_run import small_config

NUM_PROMPTS = 11

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def config(tmp_path, llama_directory) -> OnlineRunConfig:
    """Two epochs over 11 prompts in batches of 4: 5 steps, in 2 segments of which the second spans the epochs."""
    with open(tmp_path / "data.jsonl", "w", encoding="utf-8") as file:
        for number in range(NUM_PROMPTS):
            file.write(json.dumps({"prompt_ids": [number, number + 1]}) + "\n")
    changes = {"trainer__mcpo__max_steps": -1, "trainer__mcpo__max_epochs": 2}
    raw = small_config(tmp_path, llama_directory, **changes).model_dump()
    extra = online().model_dump(include={"onmcpo", "rollouts", "judge"})
    extra["onmcpo"]["segments"] = 2
    extra["rollouts"]["max_tokens"] = 8
    raw["model"]["data"]["format"] = "jsonl"
    config = parse_config(raw | extra, None, OnlineRunConfig)
    # Token ids need no tokenizer here; a real run would need text for its judge.
    data = config.model.data.model_copy(update={"format": "tokens"})
    return config.model_copy(update={"model": config.model.model_copy(update={"data": data})})


@pytest.fixture
def pretrained(config):
    return open_pretrained(config.pretrained_checkpoint.restore_from_path, config.model.data.cache_dir)


def write_ranked(path, prompts, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            responses = [{"ids": [row, rank], "rank": rank} for rank in (1, 2, 3)]
            file.write(json.dumps({"prompt_ids": prompts[row].prompt_tokens.tolist(), "responses": responses}) + "\n")


def test_prompts_alone(config, pretrained):
    prompts = open_prompts(config, pretrained)
    assert len(prompts) == NUM_PROMPTS
    assert prompts[3].completions == ()


def test_exactly_what_the_steps_consume(config, pretrained):
    prompts = open_prompts(config, pretrained)
    order = [index for _, index in PromptStream(NUM_PROMPTS, config.model.seed, True).take(0, 20)]
    first, second = (segment_of(config, prompts, number) for number in range(2))
    assert (first.first_step, first.last_step, second.last_step) == (0, 2, 5)
    assert prompts_of(config, prompts, first) == order[:8]
    assert prompts_of(config, prompts, second) == list(dict.fromkeys(order[8:20]))
    twice = set(order[8:NUM_PROMPTS]) & set(order[NUM_PROMPTS:20])  # by both epochs
    assert twice and len(prompts_of(config, prompts, second)) == 12 - len(twice)


@pytest.mark.parametrize("number", [0, 1])
def test_trees_by_the_runs_numbers(config, pretrained, tmp_path, number):
    prompts = open_prompts(config, pretrained)
    rows = prompts_of(config, prompts, segment_of(config, prompts, number))
    files = SegmentFiles(tmp_path / "segment")
    write_ranked(files.ranked, prompts, rows)
    data = segment_data(number, files)(config, pretrained)
    assert (data.first_step, data.last_step, data.num_steps) == ((0, 2, 5), (2, 5, 5))[number]
    assert data.fingerprint == prompts.fingerprint
    assert len(data.trees) == NUM_PROMPTS
    for line, row in enumerate(rows, start=1):
        tree = data.trees[row]
        assert tree.prompt_tokens.tolist() == [row, row + 1]
        assert [completion.tolist() for completion in tree.completions] == [[row, 1], [row, 2], [row, 3]]
        assert data.trees.source(tree.index).endswith(f"ranked.jsonl:{line}")
    with pytest.raises(KeyError):
        data.trees[next(row for row in range(NUM_PROMPTS) if row not in rows)]


@pytest.mark.parametrize("spoil", [lambda rows: rows[1:], lambda rows: rows[::-1]])
def test_answers_to_other_prompts_are_refused(config, pretrained, tmp_path, spoil):
    prompts = open_prompts(config, pretrained)
    files = SegmentFiles(tmp_path / "segment")
    write_ranked(files.ranked, prompts, spoil(prompts_of(config, prompts, segment_of(config, prompts, 0))))
    with pytest.raises(RolloutError) as caught:
        segment_data(0, files)(config, pretrained)
    assert caught.value.where == str(files.ranked) and "8 prompts" in str(caught.value.expected)
