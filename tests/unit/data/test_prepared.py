# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from nemo_mcpo.data.prepared import PreparedDataset, PreparedWriter, fingerprint_of
from nemo_mcpo.errors import DataError

RECIPE = {"data": "hash", "format": "tokens"}
Row = tuple[list[int], list[list[int]], list[float | None]]


def write(directory: Path, rows: list[Row]) -> PreparedDataset:
    directory.mkdir()
    writer = PreparedWriter(directory)
    for number, (prompt, completions, scores) in enumerate(rows):
        arrays = [np.array(ids, dtype=np.int32) for ids in (prompt, *completions)]
        lost = [7, *[1] * len(completions)] if number < 2 else []
        writer.add(f"dätä.jsonl:{number + 1}", arrays[0], tuple(arrays[1:]), scores, lost)
    writer.drop("data.jsonl:99", "empty prompt", "")
    writer.finish(RECIPE, dropped={"empty prompt": 1}, repeated_answers=4)
    return PreparedDataset(directory)


def random_rows(number: int) -> list[Row]:
    rng = random.Random(0)

    def ids() -> list[int]:
        return [rng.randrange(2**31) for _ in range(rng.randint(1, 9))]

    return [(ids(), [ids() for _ in range(rng.randint(2, 7))], []) for _ in range(number)]


ROWS: list[Row] = [
    (prompt, completions, [float(i) for i in range(len(completions))] if number % 2 else [None] * len(completions))
    for number, (prompt, completions, _) in enumerate(random_rows(50))
]


def test_round_trip(tmp_path):
    dataset = write(tmp_path / "d", ROWS)
    assert len(dataset) == len(ROWS) == len(list(dataset))
    for index, (prompt, completions, scores) in enumerate(ROWS):
        tree = dataset[index]
        assert tree.index == index
        assert tree.prompt_tokens.tolist() == prompt and tree.prompt_tokens.dtype == np.int32
        assert [completion.tolist() for completion in tree.completions] == completions
        assert (tree.scores is None) == (None in scores)
        assert tree.scores is None or tree.scores.tolist() == scores
        assert dataset.source(index) == f"dätä.jsonl:{index + 1}"


def test_lengths_and_numbers_are_arrays(tmp_path):
    dataset = write(tmp_path / "d", ROWS)
    trees = list(dataset)
    assert dataset.prompt_lengths.tolist() == [len(tree.prompt_tokens) for tree in trees]
    assert dataset.num_completions.tolist() == [len(tree.completions) for tree in trees]
    assert dataset.completion_lengths.tolist() == [len(c) for tree in trees for c in tree.completions]
    for index, tree in enumerate(trees):
        flat = slice(*dataset.completion_offsets[index : index + 2])
        assert dataset.completion_lengths[flat].tolist() == [len(completion) for completion in tree.completions]


def test_report(tmp_path):
    dataset = write(tmp_path / "d", ROWS)
    report = dataset.report
    assert (report.prompts, report.completions) == (len(ROWS), sum(len(completions) for _, completions, _ in ROWS))
    assert report.prompt_tokens == sum(dataset.prompt_lengths)
    assert report.tokens == sum(tree.num_tokens for tree in dataset)
    cut = sum(len(completions) for _, completions, _ in ROWS[:2])
    assert (report.truncated_prompts, report.truncated_answers, report.repeated_answers) == (2, cut, 4)
    assert report.dropped == {"empty prompt": 1}
    assert dataset.lost_tokens(1) == [7, *[1] * len(ROWS[1][1])] and set(dataset.lost_tokens(2)) == {0}
    assert json.loads(dataset.dropped_path.read_text()) == {
        "source": "data.jsonl:99",
        "reason": "empty prompt",
        "detail": "",
    }


def test_prompt_id_depends_only_on_the_tokens(tmp_path):
    rows: list[Row] = [
        ([1, 2], [[3], [4]], [None, None]),
        ([1], [[2, 3], [4]], [None, None]),
        ([1, 2], [[3], [4]], [1.0, 0.0]),
        ([1, 2], [[4], [3]], [None, None]),
    ]
    one, two = write(tmp_path / "one", rows), write(tmp_path / "two", rows[::-1])
    ids = [tree.prompt_id for tree in one]
    assert ids == [tree.prompt_id for tree in two][::-1]
    assert ids[0] == ids[2] and len(set(ids)) == 3
    assert all(0 <= prompt_id < 2**63 for prompt_id in ids)
    assert ids[0] == RECORDED_ID  # sampling is seeded by it: a change makes old runs irreproducible


def test_without_scores_no_file_of_scores_is_written(tmp_path):
    write(tmp_path / "d", [([1], [[2], [3]], [None, None])])
    assert not (tmp_path / "d" / "scores.npy").exists()


def test_rows_out_of_range(tmp_path):
    dataset = write(tmp_path / "d", ROWS[:2])
    for index in (-1, 2):
        with pytest.raises(IndexError):
            dataset[index]
        with pytest.raises(IndexError):
            dataset.source(index)


@pytest.mark.parametrize("name", ["tokens.bin", "sequence_offsets.npy", "scores.npy", "sources.bin", "dropped.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "deleted"])
def test_damaged_files_are_detected_on_opening(tmp_path, name, damage):
    write(tmp_path / "d", ROWS)
    path = tmp_path / "d" / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    with pytest.raises(DataError, match="damaged") as caught:
        PreparedDataset(tmp_path / "d")
    assert name in str(caught.value) and "delete this directory" in caught.value.fix


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": 1, "recipe": {}, "files": {}}'])
def test_damaged_meta(tmp_path, content):
    write(tmp_path / "d", ROWS)
    (tmp_path / "d" / "meta.json").write_text(content)
    with pytest.raises(DataError, match="damaged"):
        PreparedDataset(tmp_path / "d")


def test_a_dataset_without_meta_does_not_open(tmp_path):
    write(tmp_path / "d", ROWS)
    (tmp_path / "d" / "meta.json").unlink()
    with pytest.raises(DataError, match="damaged"):
        PreparedDataset(tmp_path / "d")
    with pytest.raises(DataError, match="no such prepared dataset"):
        PreparedDataset(tmp_path / "absent")


def test_fingerprint_depends_on_everything_in_the_recipe():
    assert fingerprint_of({"a": 1, "b": [2]}) == fingerprint_of({"b": [2], "a": 1})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 2}) != fingerprint_of({"a": None})


RECORDED_ID = 1198084878862531879
