# SPDX-License-Identifier: Apache-2.0
"""The files of an export besides the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from nemo_mcpo.errors import CheckpointError, DataError
from nemo_mcpo.models.huggingface.generation_settings import neutral_settings
from nemo_mcpo.models.huggingface.tokenizer_files import write_tokenizer_files
from tests.support.launch import tiny_chat_model

SETTINGS = "generation_config.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def source(saved: Path, tmp_path: Path) -> Path:
    """A copy to change; ``tmp_path / "out"`` is an empty directory."""
    shutil.copytree(saved, tmp_path / "source")
    (tmp_path / "out").mkdir()
    return tmp_path / "source"


def written(source: Path) -> dict[str, object]:
    write_tokenizer_files(source.parent / "out", source, 300)
    return json.loads((source.parent / "out" / SETTINGS).read_text())


def test_settings_of_a_chat_demo_are_neutral_and_its_tokens_kept(source):
    demo = {"bos_token_id": 7, "pad_token_id": 9, "eos_token_id": [5, 6], "repetition_penalty": 1.05, "top_k": 20}
    (source / SETTINGS).write_text(json.dumps(demo | {"max_length": 64, "note": "kept"}))
    end = AutoTokenizer.from_pretrained(source).eos_token_id
    kept = {"bos_token_id": 7, "pad_token_id": 9, "eos_token_id": [5, 6, end], "note": "kept"}
    assert written(source) == kept | neutral_settings(300)


def test_without_settings_the_tokens_are_the_tokenizers(source):
    (source / SETTINGS).unlink()
    tokenizer = AutoTokenizer.from_pretrained(source)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    assert written(source) == ids | neutral_settings(300)


def test_the_ends_of_a_model_without_tokenizer_are_kept(source):
    for file in source.glob("*token*"):
        file.unlink()
    (source / SETTINGS).write_text(json.dumps({"eos_token_id": [2, 3]}))
    assert written(source) == {"eos_token_id": [2, 3]} | neutral_settings(300)


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("tokenizer.json", "{", DataError),
        ("tokenizer_config.json", "[]", CheckpointError),
        ("tokenizer_config.json", "", CheckpointError),
        (SETTINGS, "", CheckpointError),
        (SETTINGS, "[1]", CheckpointError),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(source, file, text, error):
    (source / file).write_text(text)
    with pytest.raises(error, match=r"Fix: ") as caught:
        written(source)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_new_spellings_of_transformers_5_are_written_for_both(source):
    path = source / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    marks = settings.pop("additional_special_tokens")
    del settings["chat_template"]
    path.write_text(json.dumps(settings | {"extra_special_tokens": marks}))
    write_tokenizer_files(source.parent / "out", source, 300)
    found = json.loads((source.parent / "out" / path.name).read_text())
    assert found["additional_special_tokens"] == marks and "extra_special_tokens" not in found


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast"])
def test_a_byte_level_tokenizer_that_calls_itself_llama_is_exported_under_the_plain_class(source, name):
    path = source / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": name, "add_bos_token": True, "bos_token": "<|user|>"}
    settings.pop("clean_up_tokenization_spaces", None)
    path.write_text(json.dumps(settings))
    written(source)
    ours, exported = (AutoTokenizer.from_pretrained(where) for where in (source, source.parent / "out"))
    assert type(ours).__name__ == "LlamaTokenizerFast" and type(exported).__name__ == "PreTrainedTokenizerFast"
    text = "two words , <|user|> and more ."
    ids = ours(text).input_ids
    assert exported(text).input_ids == ids and ids[0] == ours.convert_tokens_to_ids("<|user|>")
    assert exported.decode(ids) == ours.decode(ids) and exported.special_tokens_map == ours.special_tokens_map
    assert exported.padding_side == ours.padding_side == "left"


def test_another_tokenizer_keeps_its_class(source):
    given = json.loads((source / "tokenizer_config.json").read_text())["tokenizer_class"]
    written(source)
    exported = source.parent / "out"
    assert json.loads((exported / "tokenizer_config.json").read_text())["tokenizer_class"] == given
    assert (exported / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
