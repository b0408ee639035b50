# SPDX-License-Identifier: Apache-2.0
"""Models that transformers runs are read as in training, completely, or refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.loading import load_model
from tests.support.models import LLAMA3, edit_weights, save_model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


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


def config(**changes: object) -> Callable[[Path], None]:
    return lambda directory: edit(directory / "config.json", **changes)


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no config.json": (lambda d: (d / "config.json").unlink(), "{}/config.json", "None"),
    "an unknown family": (config(model_type="llama9"), "{}/config.json", "llama9"),
    "no model_type": (config(model_type=None), "{}/config.json", "None"),
    "a size that is a string": (config(hidden_size="64"), "*{}*", "TypeError: *"),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), "{}", "None"),
    "half a file": (lambda d: (d / WEIGHTS).write_bytes(b"0" * 99), "{}/" + WEIGHTS, "99 bytes: *"),
    "another shape": (config(intermediate_size=128), "here: {}", "RuntimeError: *"),
    "a layer too few": (config(num_hidden_layers=3), "here: {}", "model.layers.2.* and 8 more"),
    "a layer too many": (config(num_hidden_layers=1), "here: {}", "model.layers.1.* and 8 more"),
    "no output layer": (lambda d: edit_weights(d, lambda t: t.pop("lm_head.weight")), "here: {}", "lm_head.weight"),
    "an adapter": (
        lambda d: edit_weights(d, lambda t: t.update({"model.layers.0.lora_A.weight": torch.ones(2)})),
        "here: {}",
        "model.layers.0.lora_A.weight",
    ),
    "a shard too few": (lambda d: next(d.glob("model-00002*")).unlink(), "{}/model-00002-of-*", "None"),
    "an unknown shard": (
        lambda d: edit(d / INDEX, weight_map={"lm_head.weight": "model-9.safetensors"}),
        "{}/model-9.safetensors",
        "None",
    ),
    "an index that is a list": (lambda d: (d / INDEX).write_text("[]"), "{}/" + INDEX, "a list"),
    "an empty index": (lambda d: (d / INDEX).write_text("{}"), "{}/" + INDEX, "None"),
}
"""A change of a directory, and the shell patterns of the place and the value in the error."""


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_directory_is_refused(saved, tmp_path, name):
    damage, where, got = DAMAGES[name]
    copy = shutil.copytree(saved["shards" if "shard" in name or "index" in name else "whole"], tmp_path / "model")
    damage(copy)
    with pytest.raises(CheckpointError) as caught:
        load_model(AutoModelForCausalLM, copy, where="here")
    assert fnmatchcase(caught.value.where, where.format(copy)) and fnmatchcase(str(caught.value.got), got)
    assert caught.value.fix


def test_a_language_model_is_not_a_reward_model(saved):
    with pytest.raises(CheckpointError) as caught:
        load_model(AutoModelForSequenceClassification, saved["whole"], where="judge", without=("lm_head.",))
    expected = "exactly the weights of AutoModelForSequenceClassification"
    assert (caught.value.got, caught.value.expected) == ("score.weight", expected)


def test_weights_keep_their_precision_on_request(tmp_path):
    save_model(tmp_path, "qwen3", dtype=torch.bfloat16)
    assert load_model(AutoModelForCausalLM, tmp_path, where="here", dtype="auto").dtype == torch.bfloat16
    assert load_model(AutoModelForCausalLM, tmp_path, where="here").dtype == torch.float32
