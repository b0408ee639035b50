# SPDX-License-Identifier: Apache-2.0
"""Models that transformers runs are read as in training, completely, or refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.loading import load_model
from tests.unit.models.huggingface.conftest import LLAMA3, save_model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FIX = "Fix: "


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    """A small Llama in one file, and in shards."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "whole", "llama")
    save_model(folder / "shards", "llama", max_shard_size=50_000)
    return {name: folder / name for name in ("whole", "shards")}


def edit(file: Path, **changes: object) -> None:
    """Change keys of a JSON file; None removes a key."""
    contents = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in contents.items() if value is not None}))


def edit_weights(directory: Path, change) -> None:
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(200)[None]).logits


def test_both_spellings_of_a_rotary_embedding_give_the_same_logits(saved, tmp_path):
    older = {"rope_theta": 500000.0, "rope_scaling": LLAMA3, "rope_parameters": None}
    flat = LLAMA3 | {"rope_theta": 500000.0}
    newer = {"rope_theta": None, "rope_scaling": None, "dtype": "float32", "torch_dtype": None}
    by_layer = {"rope_parameters": {"full_attention": flat, "sliding_attention": flat}}
    found = []
    for name, changes in {"old": older, "new": newer | {"rope_parameters": flat}, "layers": newer | by_layer}.items():
        shutil.copytree(saved["whole"], tmp_path / name)
        edit(tmp_path / name / "config.json", **changes)
        found.append(logits(load_model(AutoModelForCausalLM, tmp_path / name, where="here")))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    plain = logits(load_model(AutoModelForCausalLM, saved["whole"], where="here"))
    assert (found[0] - plain).abs().max() > 1e-2


def test_generation_settings_of_the_files_are_ignored(saved, tmp_path):
    shutil.copytree(saved["whole"], tmp_path / "model")
    for file in ("config.json", "generation_config.json"):
        edit(tmp_path / "model" / file, repetition_penalty=5.0, max_length=7, eos_token_id=3)
    model = load_model(AutoModelForCausalLM, tmp_path / "model", where="here")
    assert model.generation_config.to_diff_dict().keys() <= {"transformers_version"}
    assert not model.training and model.dtype == torch.float32


def test_weights_are_those_of_the_files(saved):
    for directory in saved.values():
        model = load_model(AutoModelForCausalLM, directory, where="here")
        assert torch.equal(model.lm_head.weight, load_file(saved["whole"] / WEIGHTS)["lm_head.weight"])


DAMAGES = {
    "no config.json": (lambda d: (d / "config.json").unlink(), r"config\.json: the file is missing"),
    "broken config.json": (
        lambda d: (d / "config.json").write_text("{"),
        r"config\.json: cannot read the file as JSON",
    ),
    "a list": (lambda d: (d / "config.json").write_text("[]"), r"config\.json: not a JSON object \(got a list\)"),
    "an unknown family": (
        lambda d: edit(d / "config.json", model_type="llama9"),
        r"transformers 4\.\S+ does not know this model_type \(got llama9\)",
    ),
    "no model_type": (lambda d: edit(d / "config.json", model_type=None), "does not know this model_type"),
    "a size that is a string": (
        lambda d: edit(d / "config.json", hidden_size="64"),
        "transformers rejects the configuration|transformers cannot load the model",
    ),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), "no weights in the model directory"),
    "half a file": (lambda d: (d / WEIGHTS).write_bytes(b"0" * 99), "truncated, or not a safetensors file"),
    "another shape": (
        lambda d: edit(d / "config.json", intermediate_size=128),
        "here: .*transformers cannot load the model .*RuntimeError",
    ),
    "a layer too few": (
        lambda d: edit(d / "config.json", num_hidden_layers=3),
        r"weights are missing \(got model\.layers\.2\.\S+ and 8 more",
    ),
    "a layer too many": (
        lambda d: edit(d / "config.json", num_hidden_layers=1),
        r"weights that the model does not have \(got model\.layers\.1\.\S+ and 8 more",
    ),
    "no output layer": (
        lambda d: edit_weights(d, lambda tensors: tensors.pop("lm_head.weight")),
        r"weights are missing \(got lm_head\.weight, expected exactly the weights of AutoModelForCausalLM",
    ),
    "an adapter": (
        lambda d: edit_weights(d, lambda t: t.update({"model.layers.0.lora_A.weight": torch.ones(2)})),
        r"\(got model\.layers\.0\.lora_A\.weight",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_directory_is_refused(saved, tmp_path, name):
    damage, message = DAMAGES[name]
    shutil.copytree(saved["whole"], tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(AutoModelForCausalLM, tmp_path / "model", where="here")
    assert FIX in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: next(d.glob("model-00002*")).unlink(), r"model-00002\S*: a weight file is missing"),
        (
            lambda d: edit(d / INDEX, weight_map={"lm_head.weight": "model-9.safetensors"}),
            r"model-9\S*: a weight file is missing",
        ),
        (lambda d: (d / INDEX).write_text("[]"), r"index\.json: not a JSON object"),
        (lambda d: (d / INDEX).write_text("{}"), "no weight_map"),
    ],
)
def test_damaged_shards_are_refused(saved, tmp_path, damage, message):
    shutil.copytree(saved["shards"], tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(AutoModelForCausalLM, tmp_path / "model", where="here")
    assert FIX in str(caught.value)


def test_a_language_model_is_not_a_reward_model(saved):
    with pytest.raises(CheckpointError, match=r"weights are missing \(got score\.weight"):
        load_model(AutoModelForSequenceClassification, saved["whole"], where="judge", without=("lm_head.",))


def test_weights_keep_their_precision_on_request(tmp_path):
    save_model(tmp_path, "qwen3", dtype=torch.bfloat16)
    assert load_model(AutoModelForCausalLM, tmp_path, where="here", dtype="auto").dtype == torch.bfloat16
    assert load_model(AutoModelForCausalLM, tmp_path, where="here").dtype == torch.float32
