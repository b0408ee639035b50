# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.config import fresh_config, read_architecture
from tests.unit.models.huggingface.conftest import LLAMA3, MODELS, SHAPE

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
    ("changes", "message"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, r"unknown model architecture.*GPT2.*LlamaForC"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "unknown model architecture"),
        ({"hidden_act": "gelu"}, 'hidden_act is not supported .*gelu.*expected "silu"'),
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"mlp_bias": True}, "mlp_bias is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantization_config.*before quantisation"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, r"rotary scaling is not supported.*dynamic"),
        (QWEN2 | {"max_window_layers": 1}, "sliding window in some layers only"),
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"hidden_size": 0}, "hidden_size: not a size"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        read_architecture(written(tmp_path, **changes))


def test_missing_and_damaged_config(tmp_path):
    with pytest.raises(CheckpointError, match="the model directory does not exist"):
        read_architecture(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"config\.json: the file is missing"):
        read_architecture(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot read the file as JSON"):
        read_architecture(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        read_architecture(tmp_path)
