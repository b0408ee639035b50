# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace

from nemo_mcpo.models.huggingface.families import FAMILIES
from nemo_mcpo.models.huggingface.parameters import named_parameters


def chunk(layer_numbers: list[int], names: list[str]) -> SimpleNamespace:
    """What ``named_parameters`` needs of a GPTModel; megatron-core counts ``layer_number`` from 1."""
    layers = [SimpleNamespace(layer_number=number) for number in layer_numbers]
    return SimpleNamespace(decoder=SimpleNamespace(layers=layers), named_parameters=lambda: [(n, n) for n in names])


def test_layers_are_numbered_over_the_whole_model():
    names = ["decoder.layers.0.mlp.linear_fc2.weight", "decoder.layers.1.mlp.linear_fc2.weight"]
    found = list(named_parameters([chunk([3, 4], names), chunk([7], names[:1])]))
    assert [(name, layer) for name, layer, _ in found] == [
        ("decoder.layers.*.mlp.linear_fc2.weight", 2),
        ("decoder.layers.*.mlp.linear_fc2.weight", 3),
        ("decoder.layers.*.mlp.linear_fc2.weight", 6),
    ]


def test_norms_that_transformer_engine_fuses_have_the_local_names():
    fused = ["self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight"]
    found = list(named_parameters([chunk([1], [f"decoder.layers.0.{name}" for name in fused])]))
    sources = [FAMILIES["llama"].rule(name).sources[0].name for name, _, _ in found]
    assert sources == ["model.layers.*.input_layernorm.weight", "model.layers.*.post_attention_layernorm.weight"]
