# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from safetensors.torch import load_file, save_file

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.hashing import hash_weights
from tests.unit.models.huggingface.conftest import save_model


def test_hash_depends_on_the_weights_only(tmp_path):
    save_model(tmp_path / "a", "llama")
    save_model(tmp_path / "b", "llama", max_shard_size=30_000)
    assert len(list((tmp_path / "b").glob("*.safetensors"))) > 3
    assert hash_weights(tmp_path / "a") == hash_weights(tmp_path / "b")
    save_model(tmp_path / "c", "llama-multi-head")
    assert hash_weights(tmp_path / "a") != hash_weights(tmp_path / "c")


def test_one_changed_number_changes_the_hash(llama):
    before = hash_weights(llama)
    tensors = load_file(llama / "model.safetensors")
    tensors["model.norm.weight"][7] += 1
    save_file(tensors, llama / "model.safetensors")
    assert hash_weights(llama) != before


def test_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match="no weights"):
        hash_weights(tmp_path)
