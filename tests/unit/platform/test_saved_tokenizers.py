# SPDX-License-Identifier: Apache-2.0
"""Both forms in which versions of transformers save a tokenizer load as the same tokenizer."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from nemo_mcpo.errors import DataError
from nemo_mcpo.models.huggingface.tiny import ROLES
from nemo_mcpo.platform.saved_tokenizers import TOKENIZER_CONFIG, load_tokenizer, older_spelling
from tests.support.launch import tiny_chat_model

TURNS = [{"role": "user", "content": "A question?"}]
MARKS = [f"<|{role}|>" for role in ROLES]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("model"))


def as_saved_by_5(saved: Path, target: Path, **changes: object) -> Path:
    """Write the same tokenizer in the form of transformers 5: the template in a file, fewer keys, new names."""
    shutil.copytree(saved, target)
    settings = json.loads((target / TOKENIZER_CONFIG).read_text())
    (target / "chat_template.jinja").write_text(settings.pop("chat_template"))
    (target / "special_tokens_map.json").unlink()
    for key in ("added_tokens_decoder", "additional_special_tokens"):
        del settings[key]
    newer = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": MARKS, "backend": "tokenizers"}
    (target / TOKENIZER_CONFIG).write_text(json.dumps(settings | newer | changes))
    return target


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"extra_special_tokens": [{"__type": "AddedToken", "content": mark} for mark in MARKS]},
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        {"extra_special_tokens": {}, "additional_special_tokens": MARKS},
    ],
)
def test_the_newer_form_is_the_same_tokenizer(saved, tmp_path, changes):
    older, newer = load_tokenizer(saved), load_tokenizer(as_saved_by_5(saved, tmp_path / "newer", **changes))
    assert set(newer.all_special_tokens) == set(older.all_special_tokens)
    assert (newer.bos_token_id, newer.eos_token_id, newer.pad_token_id) == (1, 2, 0)
    assert newer.model_max_length == older.model_max_length
    ids = [one.apply_chat_template(TURNS, add_generation_prompt=True) for one in (older, newer)]
    assert ids[0] == ids[1]
    assert newer.decode(ids[1], skip_special_tokens=True) == "A question?"


def test_settings_that_both_versions_load_are_unchanged():
    settings = {"tokenizer_class": "Qwen2Tokenizer", "extra_special_tokens": {"image_token": "<i>"}, "added": 1}
    assert older_spelling(settings) == settings
    both = {"extra_special_tokens": ["b", "c"], "additional_special_tokens": ["a", "b"]}
    assert older_spelling(both) == {"additional_special_tokens": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"model": 1}'),
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "BPE", "vocab": 5}}'),
        (TOKENIZER_CONFIG, ""),
        (TOKENIZER_CONFIG, "[]"),
        (TOKENIZER_CONFIG, '{"tokenizer_class": "TokenizerOfTomorrow"}'),
        (TOKENIZER_CONFIG, '{"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": 5}'),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(saved, tmp_path, file, text):
    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "model" / file).write_text(text)
    with pytest.raises(DataError, match="no usable tokenizer") as caught:
        load_tokenizer(tmp_path / "model")
    assert str(caught.value.where) == str(tmp_path / "model") and caught.value.fix
    assert re.match(r"\w+: ", caught.value.got)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_directory_without_a_tokenizer(tmp_path):
    with pytest.raises(DataError) as caught:
        load_tokenizer(tmp_path, "judge.reward_model")
    assert caught.value.where == "judge.reward_model" and caught.value.got and caught.value.fix
