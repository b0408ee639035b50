# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.config import fresh_config, read_architecture, read_config, write_config
from nemo_mcpo.models.huggingface.families import FAMILIES
from tests.support.models import LLAMA3, MODELS, SHAPE

CLASSIFIER = "LlamaForSequenceClassification"
QWEN2 = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 64}


def written(directory: Path, **changes: object) -> Path:
    config = SHAPE | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]} | changes
    if "architectures" not in changes and changes.get("model_type", "llama") != "llama":
        del config["architectures"]
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_every_field_is_read(tmp_path):
    architecture = read_architecture(
        written(
            tmp_path, head_dim=32, rms_norm_eps=1e-5, rope_theta=500000, rope_scaling=LLAMA3, torch_dtype="bfloat16"
        )
    )
    assert architecture.family == "llama"
    assert (architecture.num_layers, architecture.hidden_size, architecture.ffn_hidden_size) == (2, 64, 96)
    assert (architecture.num_attention_heads, architecture.num_query_groups, architecture.head_dim) == (4, 2, 32)
    assert (architecture.vocab_size, architecture.padded_vocab_size, architecture.max_positions) == (300, 384, 512)
    assert (architecture.norm_epsilon, architecture.rope_theta) == (1e-5, 500000.0)
    assert architecture.rope_scaling == LLAMA3
    assert (architecture.tied_embeddings, architecture.qkv_bias, architecture.qk_norm) == (False, False, False)
    assert (architecture.sliding_window, architecture.dtype) == (None, "bfloat16")


@pytest.mark.parametrize("name", MODELS)
def test_fresh_config_describes_the_same_architecture(tmp_path, name):
    architecture = read_architecture(written(tmp_path, **MODELS[name]))
    (tmp_path / "config.json").write_text(json.dumps(fresh_config(architecture)))
    assert read_architecture(tmp_path) == architecture


def test_rope_parameters_of_transformers_5_are_read(tmp_path):
    architecture = read_architecture(written(tmp_path, rope_parameters=LLAMA3 | {"rope_theta": 500000.0}))
    assert architecture.rope_theta == 500000.0
    assert architecture.rope_scaling == LLAMA3
    plain = read_architecture(written(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 2000.0}))
    assert (plain.rope_theta, plain.rope_scaling) == (2000.0, None)


def test_rope_parameters_by_type_of_layer_are_read_where_they_agree(tmp_path):
    one = LLAMA3 | {"rope_theta": 500000.0}
    by_layer = {"full_attention": one, "sliding_attention": one}
    changes = {"model_type": "qwen3", "head_dim": 16, "layer_types": ["full_attention"] * 2, "dtype": "bfloat16"}
    architecture = read_architecture(written(tmp_path, rope_parameters=by_layer, **changes))
    assert (architecture.rope_theta, architecture.rope_scaling) == (500000.0, LLAMA3)
    assert (architecture.sliding_window, architecture.dtype) == (None, "bfloat16")


def test_null_means_the_family_s_default_and_run_settings_are_ignored(tmp_path):
    null = dict.fromkeys(
        ("head_dim", "rope_theta", "rope_scaling", "hidden_act", "rms_norm_eps", "num_key_value_heads")
    )
    plain = read_architecture(written(tmp_path, num_key_value_heads=4))
    assert read_architecture(written(tmp_path, **null)) == plain
    ran = {"attn_implementation": "flash_attention_2", "return_dict": False, "output_attentions": True}
    read_architecture(written(tmp_path, **ran))
    assert not read_config(tmp_path).keys() & ran.keys()


@pytest.mark.parametrize("name", MODELS)
def test_a_written_config_has_both_spellings_and_no_sampling_settings(tmp_path, name):
    """It has both spellings and the head size, but no penalties and no window unless the family uses one."""
    (tmp_path / "out").mkdir()
    changes = {"temperature": 0.6, "repetition_penalty": 1.2, "max_length": 99, "id2label": {"0": "kept"}}
    if MODELS[name]["model_type"] == "llama":
        changes |= {"sliding_window": 64, "use_sliding_window": True}
    architecture = read_architecture(written(tmp_path, **MODELS[name], **changes))
    write_config(tmp_path / "out", architecture, tmp_path, "bfloat16")
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert found["dtype"] == found["torch_dtype"] == "bfloat16" and found["id2label"] == {"0": "kept"}
    assert found["rope_parameters"]["rope_theta"] == found["rope_theta"] == architecture.rope_theta
    assert found["rope_scaling"] == architecture.rope_scaling
    assert not found.keys() & {"temperature", "repetition_penalty", "max_length"}
    assert ("sliding_window" in found) == ("sliding_window" in MODELS[name])
    assert read_architecture(tmp_path / "out") == replace(architecture, dtype="bfloat16")


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"model_type": "llama", "sliding_window": 64}, None),
        ({"model_type": "mistral"}, 4096),
        ({"model_type": "mistral", "sliding_window": 64}, 64),
        ({"model_type": "mistral", "sliding_window": None}, None),
        (QWEN2 | {"use_sliding_window": False}, None),
        (QWEN2 | {"max_window_layers": 0}, 64),
        (QWEN2 | {"max_window_layers": 2}, None),
    ],
)
def test_sliding_window_counts_only_where_it_is_used(tmp_path, changes, window):
    assert read_architecture(written(tmp_path, **changes)).sliding_window == window


@pytest.mark.parametrize(
    ("changes", "key", "got"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "", "GPT2LMHeadModel (model_type gpt2)"),
        ({"architectures": [CLASSIFIER]}, "", f"{CLASSIFIER} (model_type llama)"),
        ({"model_type": ["llama"]}, "", "no architectures (model_type ['llama'])"),
        ({"hidden_act": "gelu"}, "", 'hidden_act: "gelu"'),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ": rope_scaling", "dynamic"),
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            "",
            "10000.0 in config.json, 500000.0 in rope_parameters",
        ),
        ({"layer_types": ["full_attention"]}, ": layer_types", "['full_attention']"),
        ({"layer_types": 2}, ": layer_types", "2"),
        ({"model_type": "mistral", "sliding_window": "9"}, ": sliding_window", "9"),
        ({"head_dim": 21}, ": head_dim", "21"),
        ({"hidden_size": 60, "num_attention_heads": 4}, ": head_dim", "15"),
        ({"tie_word_embeddings": "no"}, ": tie_word_embeddings", "no"),
        ({"rms_norm_eps": "1e-5"}, ": rms_norm_eps", "1e-5"),
        ({"num_hidden_layers": "2"}, ": num_hidden_layers", "2"),
        ({"hidden_size": 0}, ": hidden_size", "0"),
        ({"num_key_value_heads": 3}, "", "4 and 3"),
        # What transformers itself rejects.
        ({"dtype": "bf16"}, "", "AttributeError: module 'torch' has no attribute 'bf16'"),
        ({"num_attention_heads": 0}, "", "ZeroDivisionError: integer division or modulo by zero"),
    ],
)
def test_unsupported_values_are_refused(tmp_path, changes, key, got):
    with pytest.raises(CheckpointError) as caught:
        read_architecture(written(tmp_path, **changes))
    assert (caught.value.where, str(caught.value.got)) == (f"{tmp_path}/config.json{key}", got) and caught.value.fix


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"architectures": [CLASSIFIER]}, ", ".join(f"{f.architectures[0]} ({name})" for name, f in FAMILIES.items())),
        ({"hidden_act": "gelu"}, '"silu"'),
        ({"layer_types": 2}, "a list of 2 names"),
    ],
)
def test_supported_values_are_named(tmp_path, changes, expected):
    with pytest.raises(CheckpointError) as caught:
        read_architecture(written(tmp_path, **changes))
    assert caught.value.expected == expected


@pytest.mark.parametrize(
    ("changes", "kinds", "window"),
    [
        (QWEN2 | {"max_window_layers": 1}, "full_attention, sliding_attention", "64"),
        # Layer types that the family ignores, or that lack a window.
        ({"layer_types": ["sliding_attention"] * 2, "sliding_window": 64}, "sliding_attention", "null"),
        (
            {"model_type": "mistral", "layer_types": ["sliding_attention", "full_attention"]},
            "full_attention, sliding_attention",
            "4096",
        ),
        ({"model_type": "mistral", "layer_types": ["full_attention"] * 2}, "full_attention", "4096"),
        ({"model_type": "qwen3", "layer_types": ["sliding_attention"] * 2}, "sliding_attention", "null"),
        ({"model_type": "qwen2", "layer_types": ["linear_attention"] * 2}, "linear_attention", "null"),
    ],
)
def test_layers_with_different_attention_are_refused(tmp_path, changes, kinds, window):
    with pytest.raises(CheckpointError) as caught:
        read_architecture(written(tmp_path, **changes))
    assert caught.value.where == f"{tmp_path}/config.json: layer_types, max_window_layers"
    assert caught.value.got == f"{kinds} and sliding_window: {window}" and caught.value.fix


def test_missing_and_damaged_config(tmp_path):
    file = tmp_path / "config.json"
    for directory, content, where, got in (
        ("nowhere", None, tmp_path / "nowhere", "None"),
        ("", None, file, "None"),
        ("", "{", file, "Expecting property name"),
        ("", "[]", file, "a list"),
    ):
        if content is not None:
            file.write_text(content)
        with pytest.raises(CheckpointError) as caught:
            read_architecture(tmp_path / directory)
        assert caught.value.where == str(where) and str(caught.value.got).startswith(got) and caught.value.fix
