# SPDX-License-Identifier: Apache-2.0
"""Values in config.json that the model does not implement."""

from __future__ import annotations

import pytest

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.families import FAMILIES
from nemo_mcpo.models.huggingface.refusals import KINDS, refuse_unsupported, unsupported
from tests.support.models import SHAPE

CHANGING = {
    "hidden_act": "gelu",
    "attention_bias": True,
    "mlp_bias": True,
    "final_logit_softcapping": 30.0,
    "logit_scale": 0.0625,
    "logits_scaling": 8.0,
    "dim_model_base": 256,
    "attn_logit_softcapping": 50.0,
    "attention_multiplier": 0.0078125,
    "query_pre_attn_scalar": 256,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "scale_depth": 1.4,
    "partial_rotary_factor": 0.5,
    "no_rope_layers": [1, 1, 1, 0],
    "rope_local_base_freq": 10000.0,
    "is_causal": False,
    "use_bidirectional_attention": True,
    "attention_chunk_size": 8192,
    "num_local_experts": 8,
    "block_configs": [{"attention": {"no_op": True}}],
    "quantization_config": {"quant_method": "fp8"},
    "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"},
}
NEUTRAL = {
    **{"hidden_act": "silu", "hidden_activation": None, "attention_bias": False, "mlp_bias": False},
    **{"final_logit_softcapping": None, "attn_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1},
    **{"residual_multiplier": 1.0, "embedding_multiplier": 1, "attention_multiplier": 0.25, "scale_emb": 1},
    **{"query_pre_attn_scalar": 16, "no_rope_layers": [1, 1], "no_rope_layer_interval": 0, "is_causal": True},
    **{"partial_rotary_factor": 1.0, "attention_chunk_size": None, "num_experts": 0, "auto_map": {}},
    **{"quantization_config": None, "is_encoder_decoder": False, "add_cross_attention": False},
}


@pytest.mark.parametrize("key", CHANGING)
def test_what_changes_the_model_is_refused(tmp_path, key):
    with pytest.raises(CheckpointError, match=f"{key} is not supported") as caught:
        refuse_unsupported(SHAPE | {key: CHANGING[key]}, "llama", tmp_path / "config.json")
    assert str(caught.value.where) == str(tmp_path / "config.json") and caught.value.fix
    assert caught.value.got.startswith(f"{key}: ")


@pytest.mark.parametrize("family", FAMILIES)
def test_neutral_values_and_values_of_the_family(family):
    """Heads of ``SHAPE`` have 16 dimensions, so the usual multiplier is 1 / 4."""
    assert list(unsupported(SHAPE | NEUTRAL, family)) == []
    own = {"qwen2": "attention_bias", "qwen3": "use_qk_norm"}
    for name, key in own.items():
        assert bool(list(unsupported({key: True}, family))) == (name != family)


def test_a_switch_is_not_a_factor():
    assert [found[1:] for found in unsupported({"logit_scale": True}, "llama")] == [("logit_scale", True, 1.0)]
    assert [found[1:] for found in unsupported({"attention_bias": 1}, "llama")] == [("attention_bias", 1, False)]


def test_every_key_appears_once():
    keys = [key for kind in KINDS for key in kind.neutral]
    assert len(keys) == len(set(keys))
