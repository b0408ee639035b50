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


def refusal(directory: Path) -> str:
    architecture = read_architecture(directory)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(directory, architecture)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_slices_of_both_forms_are_the_model(llama, sharded):
    architecture = read_architecture(llama)
    expected = load_file(llama / "model.safetensors")
    for directory in (llama, sharded):
        tensors = open_checkpoint(directory, architecture)
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name][:], tensor) for name, tensor in expected.items())
        name = "model.layers.0.mlp.down_proj.weight"
        assert torch.equal(tensors[name][:, 3:9], expected[name][:, 3:9])


def test_no_weights(llama):
    (llama / "model.safetensors").unlink()
    assert "no weights in the model directory" in refusal(llama)


def test_only_pickles(llama):
    (llama / "model.safetensors").unlink()
    (llama / "pytorch_model.bin").touch()
    assert "only pickled weights" in (message := refusal(llama))
    assert "pytorch_model.bin" in message
    assert "safe_serialization=True" in message


def test_missing_shard(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    assert f"{shard}: a weight file is missing" in refusal(sharded)


def test_index_that_leads_out_of_the_directory(sharded):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = "../../secret.safetensors"
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "not a safetensors file of this directory" in refusal(sharded)


@pytest.mark.parametrize("num_bytes", [0, 4, 100, -1])
def test_truncated_file(llama, num_bytes):
    file = llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:num_bytes])
    assert "truncated, or not a safetensors file" in (message := refusal(llama))
    assert "download the file again" in message


def test_missing_tensors(llama):
    edit_weights(llama, lambda tensors: [tensors.pop(f"model.layers.{layer}.mlp.up_proj.weight") for layer in (0, 1)])
    assert "no model.layers.0.mlp.up_proj.weight and 1 more" in refusal(llama)


def test_unknown_tensor(llama):
    edit_weights(llama, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}))
    assert "q_proj.bias" in refusal(llama)


def test_wrong_shape_and_dtype(llama):
    edit_weights(llama, lambda tensors: tensors.update({"model.norm.weight": torch.ones(63)}))
    message = refusal(llama)
    assert "tensor model.norm.weight has the wrong shape" in message
    assert "got F32 [63], expected F64/F32/BF16/F16 [64]" in message
    edit_weights(llama, lambda tensors: tensors.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}))
    assert "got I8 [64]" in refusal(llama)


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
