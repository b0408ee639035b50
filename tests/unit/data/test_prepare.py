# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_mcpo.data import prepare, tokenized
from nemo_mcpo.data.prepare import prepare_dataset
from nemo_mcpo.data.prepared import PreparedDataset, PreparedWriter
from nemo_mcpo.data.tokenization import encode_answers, encode_prompts, load_chat_tokenizer, render_prompt
from nemo_mcpo.errors import ConfigError, DataError
from nemo_mcpo.records import Message
from tests.support.full_disk import full_disk
from tests.unit.data.chat_tokenizers import FAMILIES, save_tokenizer

TOKENS = {"prompt_ids": [1, 2], "responses": [{"ids": [3], "rank": 1}, {"ids": [4, 5], "rank": 2}]}
RESPONSES = ["I am fine, thank you.", "Hello", "The sum of two and three is five."]
TEXT = {"prompt": "How are you?", "responses": [{"text": text, "score": -i} for i, text in enumerate(RESPONSES)]}


@pytest.fixture
def build(tmp_path: Path, tokenizer_dir: str) -> Callable[..., PreparedDataset]:
    def build(data: str, data_format: str = "jsonl", **changes: Any) -> PreparedDataset:
        arguments = {
            "tokenizer_dir": tokenizer_dir,
            "vocab_size": None,
            "max_prompt_length": 64,
            "max_length": 128,
            "drop_ranks": [],
            "max_candidates": None,
            "cache_dir": str(tmp_path / "cache"),
            "progress": False,
        }
        return prepare_dataset(data=data, data_format=data_format, **{**arguments, **changes})

    return build


def prepared_directories(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "prepared").glob("*"))


def test_text_is_tokenized_with_the_template(build, write_jsonl, tokenizer_dir):
    path = write_jsonl(TEXT)
    dataset = build(path)
    chat = load_chat_tokenizer(tokenizer_dir)
    tree = dataset[0]
    rendered = render_prompt(chat, (Message("user", TEXT["prompt"]),))
    assert tree.prompt_tokens.tolist() == encode_prompts(chat, [rendered])[0]
    assert [completion.tolist() for completion in tree.completions] == encode_answers(chat, RESPONSES)
    assert tree.scores is not None and tree.scores.tolist() == [0, -1, -2]
    assert dataset.source(0) == f"{path}:1"


def test_chunks_keep_the_order_of_the_file(build, write_jsonl, monkeypatch):
    path = write_jsonl(*({**TEXT, "prompt": f"Question {i}"} if i % 5 else {**TEXT, "prompt": ""} for i in range(40)))
    whole = build(path)
    monkeypatch.setattr(tokenized, "_CHUNK", 3)
    pieces = build(path, cache_dir=str(Path(path).parent / "other"))
    assert [whole.source(i) for i in range(len(whole))] == [f"{path}:{i + 1}" for i in range(40) if i % 5]
    for file in whole.directory.iterdir():
        assert file.read_bytes() == (pieces.directory / file.name).read_bytes(), file.name


def test_a_second_call_opens_the_dataset_of_the_first(build, write_jsonl, monkeypatch):
    path = write_jsonl(TEXT)
    first = build(path)
    monkeypatch.setattr(prepare, "_fill", lambda *arguments: pytest.fail("built again"))
    assert build(path).fingerprint == first.fingerprint == first.directory.name
    assert build(str(Path(path).rename(Path(path).with_name("moved.jsonl")))).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"max_prompt_length": 63},
        {"max_length": 127},
        {"drop_ranks": [3]},
        {"max_candidates": 1},
        {"vocab_size": 9999},
        {"ignored_keys": ["mood"]},
        {"keep_repeated": True},
    ],
)
def test_every_option_is_in_the_fingerprint(build, write_jsonl, changes):
    path = write_jsonl(TEXT)
    assert build(path).fingerprint != build(path, **changes).fingerprint


def test_data_and_tokenizer_are_in_the_fingerprint(build, write_jsonl, tmp_path):
    other = save_tokenizer(tmp_path / "qwen2", FAMILIES["qwen2"])
    one, two = write_jsonl(TEXT), write_jsonl(TEXT, TEXT, name="two.jsonl")
    assert len({build(one).fingerprint, build(two).fingerprint, build(one, tokenizer_dir=other).fingerprint}) == 3


def test_tokens_need_no_tokenizer(build, write_jsonl):
    tree = build(write_jsonl(TOKENS), "tokens", tokenizer_dir=None)[0]
    assert tree.prompt_tokens.tolist() == [1, 2]
    assert [completion.tolist() for completion in tree.completions] == [[3], [4, 5]]


def test_long_prompts_and_responses_are_cut_and_counted(build, write_jsonl):
    long = {"prompt_ids": list(range(10)), "responses": [{"ids": [7] * 9, "rank": 1}, {"ids": [8], "rank": 2}]}
    dataset = build(write_jsonl(TOKENS, long), "tokens", max_prompt_length=4, max_length=6)
    assert dataset[1].prompt_tokens.tolist() == [6, 7, 8, 9]
    assert [completion.tolist() for completion in dataset[1].completions] == [[7, 7], [8]]
    assert (dataset.report.truncated_prompts, dataset.report.truncated_answers) == (1, 1)


def test_equal_responses_count_once(build, write_jsonl):
    twice = {"prompt": "Hi", "responses": [{"text": text} for text in ("fine", "five", "fine ", "five", "two")]}
    alone = {"prompt": "Hi", "chosen": "fine", "rejected": "fine"}
    dataset = build(write_jsonl(twice, alone))
    assert len(dataset) == 1 and dataset.num_completions.tolist() == [3]
    assert dataset.report.repeated_answers == 2
    assert dict(dataset.report.dropped) == {"all responses are identical": 1}
    kept = build(write_jsonl(twice, alone), keep_repeated=True)
    assert kept.num_completions.tolist() == [5, 2] and kept.fingerprint != dataset.fingerprint


def test_scores_stay_with_their_responses(build, write_jsonl):
    responses = [{"text": text, "score": score} for text, score in (("fine", 5), ("five", 4), ("fine", 3), ("two", 2))]
    scores = build(write_jsonl({"prompt": "Hi", "responses": responses}))[0].scores
    assert scores is not None and scores.tolist() == [5, 4, 2]


def test_responses_that_differ_beyond_the_limit_are_identical(build, write_jsonl):
    row = {"prompt": "Hi", "responses": [{"text": "fine " * 200 + end} for end in ("one", "two")]}
    with pytest.raises(DataError) as caught:
        build(write_jsonl(row))
    assert str(caught.value.got).startswith("1 x all responses are identical after truncation")
    tokens = {"prompt_ids": [1], "responses": [{"ids": [3, 4, 5]}, {"ids": [3, 4, 6]}]}
    with pytest.raises(DataError, match="after truncation"):
        build(write_jsonl(tokens), "tokens", max_prompt_length=2, max_length=3)


def test_equal_responses_count_once_for_sft(build, write_jsonl):
    dataset = build(write_jsonl({"prompt": "Hi", "chosen": "fine", "rejected": "fine"}), min_answers=1)
    assert dataset.num_completions.tolist() == [1]


@pytest.mark.parametrize("bad_id", [-1, 100, 2**31])
def test_ids_outside_the_vocabulary_drop_the_record(build, write_jsonl, bad_id):
    in_prompt = {**TOKENS, "prompt_ids": [1, bad_id]}
    in_response = {**TOKENS, "responses": [{"ids": [3], "rank": 1}, {"ids": [bad_id], "rank": 2}]}
    path = write_jsonl(TOKENS, in_prompt, in_response)
    dataset = build(path, "tokens", vocab_size=100)
    assert len(dataset) == 1
    assert dict(dataset.report.dropped) == {"token id outside the vocabulary": 2}
    assert [json.loads(line)["source"] for line in dataset.dropped_path.read_text().splitlines()] == [
        f"{path}:2",
        f"{path}:3",
    ]


def test_vocabulary_size_comes_from_the_models_configuration(build, write_jsonl, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"vocab_size": 4}')
    with pytest.raises(DataError, match="token id outside the vocabulary"):
        build(write_jsonl(TOKENS), "tokens", tokenizer_dir=str(model))


def test_a_prompt_refused_by_the_template_is_dropped(build, write_jsonl, tmp_path):
    mistral = save_tokenizer(tmp_path / "mistral", FAMILIES["mistral"])
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    dataset = build(write_jsonl(TEXT, {**TEXT, "prompt": turns}), tokenizer_dir=mistral)
    assert dict(dataset.report.dropped) == {"chat template refused the prompt": 1}
    assert "only user and assistant turns" in dataset.dropped_path.read_text()


def test_dropped_records_are_counted_and_listed(build, write_jsonl):
    path = write_jsonl(TEXT, {**TEXT, "prompt": " "}, {**TEXT, "responses": []}, {**TEXT, "prompt": ""})
    dataset = build(path)
    assert dict(dataset.report.dropped) == {"empty prompt": 2, "no responses": 1}
    assert [json.loads(line) for line in dataset.dropped_path.read_text().splitlines()] == [
        {"source": f"{path}:2", "reason": "empty prompt", "detail": ""},
        {"source": f"{path}:3", "reason": "no responses", "detail": ""},
        {"source": f"{path}:4", "reason": "empty prompt", "detail": ""},
    ]


@pytest.mark.parametrize(
    ("records", "place", "what", "got"),
    [
        ([{**TEXT, "prompt": ""}, {**TEXT, "prompt": ""}], "", "no usable record", "2 x empty prompt"),
        ([TEXT, "{oops"], ":2", "not JSON", "'{oops\\n'"),
        ([TEXT, "[1]"], ":2", "not a JSON object", "list"),
        ([{"question": "Hi"}], ":1", "columns do not fit the format", "['question']"),
        (["[]"], "", "no usable record", "no records"),
    ],
)
def test_unusable_files_leave_nothing_behind(build, write_jsonl, tmp_path, records, place, what, got):
    path = write_jsonl(*records)
    with pytest.raises(DataError, match=what) as caught:
        build(path)
    assert (caught.value.where, str(caught.value.got)) == (f"{path}{place}", got)
    assert caught.value.fix and "\n" not in str(caught.value)
    assert prepared_directories(tmp_path) == []


def test_a_missing_file_is_reported_before_anything_else(build):
    with pytest.raises(DataError, match="no such file") as caught:
        build("absent.jsonl", tokenizer_dir="also absent")
    assert caught.value.where == "absent.jsonl"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"data_format": "csv"}, "model.data.format"),
        ({"max_prompt_length": 0}, "model.data.max_prompt_length"),
        ({"max_length": 64}, "model.data.max_length"),
        ({"max_candidates": 0}, "model.data.max_candidates"),
    ],
)
def test_options_out_of_range(build, write_jsonl, changes, key):
    with pytest.raises(ConfigError) as caught:
        build(write_jsonl(TEXT), **changes)
    assert caught.value.where == key


def test_a_full_disk_leaves_nothing_and_the_next_call_builds_again(build, write_jsonl, tmp_path, monkeypatch):
    path = write_jsonl(TEXT)
    with monkeypatch.context() as patch:
        patch.setattr(PreparedWriter, "finish", full_disk)
        with pytest.raises(DataError, match="No space left on device"):
            build(path)
    assert prepared_directories(tmp_path) == []
    assert len(build(path)) == 1


def test_a_killed_build_leaves_nothing_that_opens(build, write_jsonl, tmp_path):
    path = write_jsonl(TOKENS)
    program = (
        "import os, signal\n"
        "from nemo_mcpo.data import prepare\n"
        "from nemo_mcpo.storage import atomic\n"
        "atomic._publish = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"prepare.prepare_dataset(data={path!r}, data_format='tokens', tokenizer_dir=None, vocab_size=None,\n"
        "    max_prompt_length=64, max_length=128, drop_ranks=[], max_candidates=None,\n"
        f"    cache_dir={str(tmp_path / 'cache')!r}, progress=False)\n"
    )
    root = Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", program], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    assert result.returncode == -signal.SIGKILL
    [leftover] = prepared_directories(tmp_path)
    assert leftover.name.startswith(".")
    dataset = build(path, "tokens", tokenizer_dir=None)
    assert prepared_directories(tmp_path) == [dataset.directory]  # the leftovers of the killed process are gone
