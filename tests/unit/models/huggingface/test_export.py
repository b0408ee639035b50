# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.gpt import ParallelLayout, build_gpt
from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.models.huggingface.export import export_model
from nemo_mcpo.models.huggingface.weights import load_weights
from tests.support.full_disk import full_disk
from tests.support.launch import tiny_chat_model

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_chat_model(tmp_path)


def load(directory: Path):
    architecture = read_architecture(directory)
    chunks = build_gpt(architecture, ParallelLayout())
    load_weights(directory, chunks, architecture)
    return chunks, architecture


def test_exported_directory_is_complete_and_generates(tmp_path, tiny):
    chunks, architecture = load(tiny)
    export_model(tmp_path / "out", chunks, architecture, tiny)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    question = [{"role": "user", "content": "A question?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert set(inputs) == {"input_ids", "attention_mask"}
    answers = []
    for directory in (tiny, tmp_path / "out"):
        model = AutoModelForCausalLM.from_pretrained(directory)
        assert model.generation_config.do_sample
        torch.manual_seed(0)
        answers.append(model.generate(**inputs, max_new_tokens=5))
    assert torch.equal(*answers)
    assert not list(tmp_path.glob(".*"))


def test_every_end_of_turn_is_among_eos(tmp_path, tiny):
    config = json.loads((tiny / "tokenizer_config.json").read_text())
    config["chat_template"] = config["chat_template"].replace("eos_token", "'<|system|>'")
    (tiny / "tokenizer_config.json").write_text(json.dumps(config))
    chunks, architecture = load(tiny)
    export_model(tmp_path / "out", chunks, architecture, tiny)
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    assert settings["eos_token_id"] == [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|system|>")]
    assert settings["pad_token_id"] == tokenizer.pad_token_id
    assert settings["do_sample"] is True


def test_without_source_a_fresh_config_is_written(tmp_path, tiny):
    chunks, architecture = load(tiny)
    export_model(tmp_path / "out", chunks, architecture)
    assert read_architecture(tmp_path / "out") == architecture


def test_dtype_of_config_follows_the_weights(tmp_path, tiny):
    chunks, architecture = load(tiny)
    export_model(tmp_path / "out", chunks, architecture, tiny, dtype="bfloat16")
    assert read_architecture(tmp_path / "out").dtype == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.bfloat16


def test_earlier_export_is_replaced_but_nothing_else(tmp_path, tiny):
    chunks, architecture = load(tiny)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}/home: .*not a model"):
        export_model(tmp_path / "home", chunks, architecture, tiny)
    with pytest.raises(CheckpointError, match=rf"^{tiny}: .*the initial model"):
        export_model(tiny, chunks, architecture, tiny)
    export_model(tmp_path / "out", chunks, architecture, tiny)
    (tmp_path / "out" / "stale").touch()
    export_model(tmp_path / "out", chunks, architecture, tiny)
    assert not (tmp_path / "out" / "stale").exists()


def test_full_disk_keeps_the_earlier_export(tmp_path, tiny, monkeypatch):
    chunks, architecture = load(tiny)
    export_model(tmp_path / "out", chunks, architecture, tiny)
    before = (tmp_path / "out" / "model.safetensors").read_bytes()

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(CheckpointError, match=r"cannot write the model.*No space left.*Fix"):
        export_model(tmp_path / "out", chunks, architecture, tiny)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_unknown_dtype_is_refused(tmp_path, tiny):
    chunks, architecture = load(tiny)
    with pytest.raises(CheckpointError, match="unknown dtype"):
        export_model(tmp_path / "out", chunks, architecture, tiny, dtype="int8")
