# SPDX-License-Identifier: Apache-2.0
"""``.nemo`` files are saved and restored through NeMo's API, with the same weights and without pickles."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from nemo_mcpo.models.huggingface.checkpoint import hash_weights
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel
from nemo_mcpo.models.pretrained import open_pretrained
from tests.support.small_gpt import parameters_of, small_model
from tests.support.trees import random_trees

TREES = random_trees([3, 2], seed=2)

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def archive(llama_directory, tmp_path: Path) -> Path:
    small_model(llama_directory).save_to(tmp_path / "model.nemo")
    return tmp_path / "model.nemo"


def test_round_trip(archive, llama_directory):
    model = small_model(llama_directory)
    restored = MegatronGPTMCPOModel.restore_from(str(archive))
    assert restored.architecture == model.architecture
    assert OmegaConf.to_container(restored.cfg)["architecture"] == OmegaConf.to_container(model.cfg)["architecture"]
    weights = parameters_of(model)
    assert all(torch.equal(value, weights[name]) for name, value in parameters_of(restored).items())
    assert torch.equal(restored.log_probs(TREES), model.log_probs(TREES))


def test_only_the_archive_is_left(archive):
    MegatronGPTMCPOModel.restore_from(str(archive))
    assert [path.name for path in archive.parent.iterdir()] == ["model.nemo"]


def test_weights_are_safetensors(archive):
    with tarfile.open(archive) as tar:
        names = [Path(member.name) for member in tar.getmembers() if member.isfile()]
    assert "model_config.yaml" in {name.name for name in names}
    assert any(name.suffix == ".safetensors" for name in names)
    assert {name.suffix for name in names} <= {".safetensors", ".json", ".yaml", ".jinja", ".txt"}


def test_it_is_a_pretrained_model(archive, llama_directory, tmp_path):
    opened = open_pretrained(str(archive), str(tmp_path / "cache"))
    assert hash_weights(opened.weights) == hash_weights(llama_directory)


def test_the_configuration_alone_and_changed(archive):
    config = MegatronGPTMCPOModel.restore_from(str(archive), return_config=True)
    assert config.micro_batch_tokens == 2048
    override = OmegaConf.create({"micro_batch_tokens": 7})
    restored = MegatronGPTMCPOModel.restore_from(str(archive), override_config_path=override)
    assert restored.cfg.micro_batch_tokens == 7


def test_a_restored_model_can_be_saved_again(archive, llama_directory, tmp_path):
    MegatronGPTMCPOModel.restore_from(str(archive)).save_to(tmp_path / "again.nemo")
    opened = open_pretrained(str(tmp_path / "again.nemo"), str(tmp_path / "cache"))
    assert hash_weights(opened.weights) == hash_weights(llama_directory)
