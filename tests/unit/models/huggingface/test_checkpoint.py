# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.checkpoint import hash_weights, open_checkpoint
from nemo_mcpo.models.huggingface.config import read_architecture
from tests.support.models import edit_weights, save_model


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_model(tmp_path / "sharded", "llama", max_shard_size=50_000)
    return tmp_path / "sharded"


def refusal(directory: Path) -> CheckpointError:
    architecture = read_architecture(directory)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(directory, architecture)
    return caught.value


def test_slices_of_both_forms_are_the_model(llama, sharded):
    architecture = read_architecture(llama)
    expected = load_file(llama / "model.safetensors")
    for directory in (llama, sharded):
        tensors = open_checkpoint(directory, architecture)
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name][:], tensor) for name, tensor in expected.items())
        name = "model.layers.0.mlp.down_proj.weight"
        assert torch.equal(tensors[name][:, 3:9], expected[name][:, 3:9])


def test_only_pickles(llama):
    (llama / "model.safetensors").unlink()
    (llama / "pytorch_model.bin").touch()
    error = refusal(llama)
    assert (error.where, error.got) == (str(llama), "pytorch_model.bin") and "safe_serialization=True" in error.fix


def test_index_that_leads_out_of_the_directory(sharded):
    file = sharded / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["lm_head.weight"] = "../../secret.safetensors"
    file.write_text(json.dumps(index))
    error = refusal(sharded)
    assert (error.where, error.got, error.expected) == (str(file), "../../secret.safetensors", "a plain file name")


@pytest.mark.parametrize("num_bytes", [0, 4, 100, -1])
def test_truncated_file(llama, num_bytes):
    file = llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:num_bytes])
    error = refusal(llama)
    assert (error.where, error.fix) == (str(file), "download the file again")
    assert error.got.startswith(f"{file.stat().st_size} bytes: ")


def test_missing_tensors(llama):
    edit_weights(llama, lambda tensors: [tensors.pop(f"model.layers.{layer}.mlp.up_proj.weight") for layer in (0, 1)])
    error = refusal(llama)
    assert (error.where, error.got) == (str(llama), "no model.layers.0.mlp.up_proj.weight and 1 more") and error.fix


def test_unknown_tensor(llama):
    edit_weights(llama, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}))
    assert refusal(llama).got == "model.layers.0.self_attn.q_proj.bias"


def test_wrong_shape_and_dtype(llama):
    edit_weights(llama, lambda tensors: tensors.update({"model.norm.weight": torch.ones(63)}))
    error = refusal(llama)
    assert "model.norm.weight" in error.what
    assert (error.got, error.expected) == ("F32 [63]", "F64/F32/BF16/F16 [64]") and error.fix
    edit_weights(llama, lambda tensors: tensors.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}))
    assert refusal(llama).got == "I8 [64]"


def test_computed_tensors_and_a_tied_head_are_ignored(tmp_path):
    save_model(tmp_path, "qwen2-tied")
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8), "lm_head.weight": torch.ones(300, 64)}
    edit_weights(tmp_path, lambda tensors: tensors.update(extra))
    assert not extra.keys() & open_checkpoint(tmp_path, read_architecture(tmp_path)).keys()


def test_hash_depends_on_the_weights_only(tmp_path):
    save_model(tmp_path / "a", "llama")
    save_model(tmp_path / "b", "llama", max_shard_size=30_000)
    assert len(list((tmp_path / "b").glob("*.safetensors"))) > 3
    assert hash_weights(tmp_path / "a") == hash_weights(tmp_path / "b")
    save_model(tmp_path / "c", "llama-multi-head")
    assert hash_weights(tmp_path / "a") != hash_weights(tmp_path / "c")


def test_one_changed_number_changes_the_hash(llama):
    before = hash_weights(llama)
    edit_weights(llama, lambda tensors: tensors["model.norm.weight"][7].add_(1))
    assert hash_weights(llama) != before


def test_a_directory_without_weights_has_no_hash(tmp_path):
    with pytest.raises(CheckpointError, match="no weights"):
        hash_weights(tmp_path)
