# SPDX-License-Identifier: Apache-2.0
"""Model directories: the sizes of complete ones, and what is missing from others."""

from __future__ import annotations

import pytest

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.rollouts.served_model import ServedModel, read_served_model, sizes_of
from tests.support.served import LLAMA_70B, write_model


def read(directory, **options):
    return read_served_model(str(directory), "judge.server.model", **options)


def test_a_complete_directory(tmp_path):
    model = read(write_model(tmp_path / "judge"), needs_template=True)
    assert model == ServedModel(141_100_000_000, 80, 64, 8, 128, 131072, 2)
    assert model.cache_bytes(1, 1) == 2 * 80 * 8 * 128 * 2  # 320 KiB a token
    assert model.cache_bytes(4, 2) == 2 * 40 * 2 * 128 * 2
    assert model.cache_bytes(16, 1, itemsize=1) == 2 * 80 * 1 * 128  # one head a GPU, copied


def test_the_language_model_of_a_multimodal_model():
    nested = {"text_config": LLAMA_70B | {"dtype": "float32", "head_dim": 96}, "vision_config": {"hidden_size": 1}}
    model = sizes_of(nested, 5, "x")
    assert (model.heads, model.head_dim, model.itemsize) == (64, 96, 4)


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 4 * 131072),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 65536}}, 262144),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 131072),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0}}}, 4 * 131072),
        ({"max_position_embeddings": None}, None),
    ],
)
def test_the_longest_sequence(scaling, longest):
    assert sizes_of(LLAMA_70B | scaling, 1, "x").max_positions == longest


def lose_the_template(model):
    (model / "tokenizer_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "what", "got"),
    [
        (lambda model: (model / "model-1.safetensors").unlink(), "weights are missing", "without model-1.safetensors"),
        (lambda model: [path.unlink() for path in model.glob("model*")], "the model has no weights", "judge"),
        (lambda model: (model / "tokenizer.json").unlink(), "the model has no tokenizer", "judge"),
        (lose_the_template, "the model has no chat template", "judge"),
        (
            lambda model: (model / "config.json").write_text('{"num_attention_heads": 64}'),
            "not the configuration",
            "num_hidden_layers",
        ),
        (lambda model: (model / "config.json").write_text("{"), "the model is not complete", "config.json"),
    ],
)
def test_what_is_missing(tmp_path, damage, what, got):
    model = write_model(tmp_path / "judge")
    damage(model)
    with pytest.raises(ConfigError, match=what) as caught:
        read(model, needs_template=True)
    assert caught.value.where.startswith("judge.server.model") and got in str(caught.value.got) and caught.value.fix


def test_a_template_in_its_own_file_and_one_that_is_not_needed(tmp_path):
    model = write_model(tmp_path / "judge")
    lose_the_template(model)
    assert read(model).heads == 64
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert read(model, needs_template=True).heads == 64


@pytest.mark.parametrize(("name", "what"), [("absent", "no such directory"), ("file", "not a directory")])
def test_no_directory(tmp_path, name, what):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=what) as caught:
        read(tmp_path / name)
    assert (caught.value.where, str(caught.value.got)) == ("judge.server.model", str(tmp_path / name))
