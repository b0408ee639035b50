# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo_mcpo.data.prepare import prepare_dataset
from nemo_mcpo.data.prepared import PreparedDataset
from nemo_mcpo.data.shown import show_record

ROW = {
    "prompt": "How are you?\nReally?",
    "responses": [{"text": "I am fine", "score": 2}, {"text": "five " * 90, "score": 1}],
}


def prepared(data: str, tokenizer_dir: str, cache: Path, **changes: Any) -> PreparedDataset:
    options: dict[str, Any] = {"data_format": "auto", "vocab_size": None, "max_prompt_length": 64, "max_length": 80}
    rest = {"drop_ranks": None, "max_candidates": None, "cache_dir": str(cache), "progress": False}
    return prepare_dataset(data=data, tokenizer_dir=tokenizer_dir, **{**options, **rest, **changes})


def test_record_as_the_model_sees_it(write_jsonl, tokenizer_dir, tmp_path):
    path = write_jsonl(ROW)
    dataset = prepared(path, tokenizer_dir, tmp_path)
    tree = dataset[0]
    lost = dataset.lost_tokens(0)[2]
    lines = show_record(dataset, 0, tokenizer_dir).split("\n")
    assert lines[0].startswith(f"┌─ record 1 of 1, {path}:1 ")
    assert lines[1] == f"│ (prompt: {len(tree.prompt_tokens)} tokens)"
    assert any(line.startswith("│ <|begin_of_text|>") for line in lines) and "│ Really?<|eot_id|>" in "\n".join(lines)
    trained = [line for line in lines if line.startswith("┃")]
    assert trained[0] == f"┃ (completion 0, preferred, trained, score 2: {len(tree.completions[0])} tokens)"
    assert trained[1] == "┃ I am fine<|eot_id|>"
    assert lost > 0 and trained[2].endswith(f"{len(tree.completions[1])} tokens, {lost} more cut off at the end)")
    assert not trained[3].endswith("<|eot_id|>")


def test_a_cut_prompt_is_marked(write_jsonl, tokenizer_dir, tmp_path):
    row = {**ROW, "prompt": "Hello there! " * 40}
    dataset = prepared(write_jsonl(row), tokenizer_dir, tmp_path)
    assert f"{dataset.lost_tokens(0)[0]} more cut off at the beginning)" in show_record(dataset, 0, tokenizer_dir)
    assert dataset.report.truncated_prompts == 1


def test_without_a_tokenizer_the_ids_are_shown(write_jsonl, tmp_path):
    row = {"prompt_ids": [1, 2], "responses": [{"ids": [3]}, {"ids": [4, 5]}]}
    dataset = prepared(write_jsonl(row), None, tmp_path)  # type: ignore[arg-type]
    assert "┃ 4 5" in show_record(dataset, 0, None).split("\n")
    assert "┃ 4 5" in show_record(dataset, 0, str(tmp_path)).split("\n")
