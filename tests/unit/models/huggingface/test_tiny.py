# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from nemo_mcpo.errors import ConfigError, DataError
from nemo_mcpo.models.huggingface.checkpoint import hash_weights
from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.models.huggingface.families import FAMILIES
from nemo_mcpo.models.huggingface.tiny import SIZES, make_tiny_model

SCRIPT = Path(__file__).resolve().parents[4] / "scripts" / "make_tiny_model.py"
ROWS = [
    {"prompt": "What is 12 + 30?", "responses": [{"text": "It is 42."}, {"text": "It is 41."}]},
    {"prompt": [{"role": "user", "content": "Name a fruit, please."}], "chosen": "An apple.", "rejected": "A stone."},
] * 20


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    return tmp_path / "data.jsonl"


@pytest.mark.parametrize("family", FAMILIES)
def test_same_arguments_give_the_same_bytes(tmp_path, data, family):
    for name in ("a", "b"):
        make_tiny_model(data, tmp_path / name, "1m", seed=3, family=family)
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    make_tiny_model(data, tmp_path / "b", "1m", seed=4, family=family)
    assert hash_weights(tmp_path / "a") != hash_weights(tmp_path / "b")


@pytest.mark.parametrize("family", FAMILIES)
def test_directory_is_complete(tmp_path, data, family):
    architecture = make_tiny_model(data, tmp_path / "model", "1m", seed=3, family=family)
    assert read_architecture(tmp_path / "model") == architecture
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert len(tokenizer) == architecture.vocab_size == model.config.vocab_size
    assert model.generation_config.do_sample
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]


def test_the_tokenizer_is_lossless_and_has_single_digits(tmp_path, data):
    make_tiny_model(data, tmp_path / "model", "1m", seed=3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    text = "  It is\n\t3405 — žluťoučký 🐎!  "
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert [token for token in tokenizer.convert_ids_to_tokens(ids) if token.isdigit()] == ["3", "4", "0", "5"]


def test_chat_template(tmp_path, data):
    make_tiny_model(data, tmp_path / "model", "1m", seed=3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    turns = [{"role": "user", "content": "Hi"}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|begin|><|user|>Hi<|end|><|assistant|>"
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "Yo"}], tokenize=False)
    assert whole == prompt + "Yo<|end|>"


@pytest.mark.parametrize("name", SIZES)
def test_named_sizes_have_their_parameters_and_can_be_split(name):
    size = SIZES[name]
    millions = float(name[:-1]) * {"m": 1, "b": 1000}[name[-1]]
    assert size.num_parameters / 1e6 == pytest.approx(millions, rel=0.25)
    assert size.num_layers % 4 == size.num_attention_heads % 4 == size.num_query_groups % 2 == 0
    assert size.ffn_hidden_size % 64 == 0


def test_bad_input(tmp_path, data):
    with pytest.raises(DataError, match="the file does not exist"):
        make_tiny_model(tmp_path / "nowhere.jsonl", tmp_path / "model", "1m", seed=1)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    with pytest.raises(DataError, match="not JSON") as caught:
        make_tiny_model(tmp_path / "bad.jsonl", tmp_path / "model", "1m", seed=1)
    assert caught.value.where == f"{tmp_path / 'bad.jsonl'}:2"
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        make_tiny_model(tmp_path / "empty.txt", tmp_path / "model", "1m", seed=1)
    with pytest.raises(ConfigError) as caught:
        make_tiny_model(data, tmp_path / "model", "1m", seed=1, vocab_size=100)
    assert (caught.value.where, caught.value.got, caught.value.expected) == ("--vocab-size", 100, "at least 262")
    with pytest.raises(ConfigError) as caught:
        make_tiny_model(data, tmp_path / "model", "2m", seed=1)
    assert (caught.value.where, caught.value.got) == ("--size", "2m") and "1m, 3m" in caught.value.expected
    assert not (tmp_path / "model").exists()


def test_script(tmp_path, data):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(SCRIPT), "--size", "1m", "--seed", "1", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = run("--data", str(data), "--out", str(tmp_path / "model"), "--vocab-size", "280")
    assert done.returncode == 0, done.stderr
    assert read_architecture(tmp_path / "model").vocab_size == 280
    failed = run("--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "model"))
    assert failed.returncode == 1
    assert "nowhere: the file does not exist" in failed.stderr
    assert "Traceback" not in failed.stderr
