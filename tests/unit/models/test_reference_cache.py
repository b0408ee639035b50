# SPDX-License-Identifier: Apache-2.0
"""The cache keeps complete chunks, drops incomplete ones, and continues with the same chunks and bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.models.reference_cache import MAX_PROMPTS_PER_CHUNK, ReferenceCache, reference_key
from nemo_mcpo.records import PromptTree
from tests.support.trees import random_trees

TREES = random_trees([3, 1, 4, 2, 5, 2, 3, 1], seed=5)
OFFSETS = np.cumsum([0, *(len(tree.completions) for tree in TREES)])
EVERY = range(len(TREES))
BUDGET = 40


class Scorer:
    """Log-probs that depend on the chunk they were scored in, as rounding does in a real model."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.chunks: list[list[int]] = []
        self.fail_after = fail_after

    def __call__(self, trees: list[PromptTree]) -> torch.Tensor:
        if self.fail_after == len(self.chunks):
            raise KeyboardInterrupt
        self.chunks.append([tree.index for tree in trees])
        table = torch.zeros(len(trees), max(len(tree.completions) for tree in trees))
        for row, tree in enumerate(trees):
            for column, completion in enumerate(tree.completions):
                table[row, column] = -float(completion.sum()) / 3 - 1e-3 * len(trees) - 1e-6 * trees[0].index
        return table


def open_cache(directory: Path, key: str = "key") -> ReferenceCache:
    return ReferenceCache(directory, key, OFFSETS)


def fill(cache: ReferenceCache, scorer: Scorer, indices=EVERY, budget: int = BUDGET) -> int:
    return cache.fill(indices, TREES.__getitem__, scorer, budget)


def values(cache: ReferenceCache) -> list[list[float]]:
    return [cache[index].tolist() for index in EVERY]


@pytest.fixture
def whole(tmp_path: Path) -> tuple[ReferenceCache, Scorer]:
    """A filled cache in ``tmp_path / "whole"``, and its scorer."""
    cache, scorer = open_cache(tmp_path / "whole"), Scorer()
    assert fill(cache, scorer) == len(TREES)
    return cache, scorer


def test_filled_from_whole_chunks_under_the_budget(whole):
    cache, scorer = whole
    assert [index for chunk in scorer.chunks for index in chunk] == list(EVERY)
    sizes = [sum(TREES[index].num_tokens for index in chunk) for chunk in scorer.chunks]
    assert len(sizes) > 2
    assert all(size <= BUDGET or len(chunk) == 1 for size, chunk in zip(sizes, scorer.chunks, strict=True))
    # Greedy: the next prompt would not have fit.
    for size, following in zip(sizes, scorer.chunks[1:], strict=False):
        assert size + TREES[following[0]].num_tokens > BUDGET
    for chunk in scorer.chunks:
        table = Scorer()([TREES[index] for index in chunk])
        for row, index in enumerate(chunk):
            assert cache[index].tolist() == table[row, : len(TREES[index].completions)].tolist()


def test_reused(tmp_path, whole):
    again, scorer = open_cache(tmp_path / "whole"), Scorer()
    assert again.missing(EVERY) == []
    assert fill(again, scorer) == 0
    assert scorer.chunks == []
    assert values(again) == values(whole[0])


def test_only_what_is_missing_is_scored(tmp_path):
    cache, scorer = open_cache(tmp_path), Scorer()
    assert fill(cache, scorer, [5, 2, 2]) == 2
    assert cache.missing([7, 5, 0, 0, 2]) == [0, 7]
    assert fill(open_cache(tmp_path), scorer) == len(TREES) - 2
    assert sorted(index for chunk in scorer.chunks for index in chunk) == list(EVERY)
    assert open_cache(tmp_path).missing(EVERY) == []


def test_a_missing_prompt_is_a_key_error(tmp_path):
    with pytest.raises(KeyError, match="reference log-probs of prompt 3 were not computed"):
        open_cache(tmp_path)[3]


@pytest.mark.parametrize("num_chunks", [0, 1, 2])
def test_an_interrupted_pass_continues_with_the_same_chunks_and_bits(tmp_path, whole, num_chunks):
    interrupted = Scorer(fail_after=num_chunks)
    with pytest.raises(KeyboardInterrupt):
        fill(open_cache(tmp_path), interrupted)
    continued = Scorer()
    fill(open_cache(tmp_path), continued)
    assert interrupted.chunks + continued.chunks == whole[1].chunks
    assert values(open_cache(tmp_path)) == values(whole[0])
    assert open_cache(tmp_path).path.read_bytes() == whole[0].path.read_bytes()


def test_a_torn_tail_is_dropped_and_written_again(tmp_path, whole):
    path, content = whole[0].path, whole[0].path.read_bytes()
    last = whole[1].chunks[-1]
    size_of_last = 16 + 8 * len(last) + 4 * sum(len(TREES[index].completions) for index in last)
    for torn in (1, 4, size_of_last // 2, size_of_last - 1, size_of_last):
        path.write_bytes(content[:-torn])
        cache, scorer = open_cache(tmp_path / "whole"), Scorer()
        assert cache.missing(EVERY) == last
        fill(cache, scorer)
        assert scorer.chunks == [last]
        assert path.read_bytes() == content


@pytest.mark.parametrize("place", [0, 5, 13, 20, -1])
def test_a_corrupt_chunk_and_what_follows_is_scored_again(tmp_path, whole, place):
    path, content = whole[0].path, bytearray(whole[0].path.read_bytes())
    good = bytes(content)
    content[place] ^= 0xFF
    path.write_bytes(bytes(content))
    cache, scorer = open_cache(tmp_path / "whole"), Scorer()
    fill(cache, scorer)
    assert scorer.chunks == (whole[1].chunks if place >= 0 else whole[1].chunks[-1:])
    assert path.read_bytes() == good


def test_another_key_is_another_file(tmp_path, whole):
    other = open_cache(tmp_path / "whole", "other")
    assert other.missing(EVERY) == list(EVERY)
    fill(other, Scorer())
    assert {path.name for path in whole[0].path.parent.iterdir()} == {"key.log", "other.log"}


def test_a_chunk_has_a_limit_of_prompts(tmp_path):
    trees = random_trees([1] * (MAX_PROMPTS_PER_CHUNK + 1))
    cache, scorer = ReferenceCache(tmp_path, "key", np.arange(len(trees) + 1)), Scorer()
    seen = []
    cache.fill(range(len(trees)), trees.__getitem__, scorer, 10**9, seen.append)
    assert [len(chunk) for chunk in scorer.chunks] == seen == [MAX_PROMPTS_PER_CHUNK, 1]


def test_the_key_names_weights_architecture_and_precision(llama_directory):
    architecture = read_architecture(llama_directory)
    other = dataclasses.replace(architecture, rope_theta=123.0)
    keys = [
        reference_key(weights, shape, precision)
        for weights in ("a" * 64, "b" * 64)
        for shape in (architecture, other)
        for precision in ("32", "bf16")
    ]
    assert len(set(keys)) == 8
    assert keys[0] == reference_key("a" * 64, architecture, "32")
    assert keys[0].startswith("a" * 32) and "/" not in keys[0]
