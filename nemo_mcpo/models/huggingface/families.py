# SPDX-License-Identifier: Apache-2.0
"""Which Hugging Face tensors make up each megatron-core parameter: one table per family.

A ``*`` in a name stands for the layer's number, counted from 0 over the whole model. Parameter names are those of
megatron-core's local layer spec; ``CANONICAL_SUFFIXES`` maps Transformer Engine's names to them.

>>> FAMILIES["llama"].rule("output_layer.weight").sources
{'lm_head.weight': ('vocab', 'hidden')}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.architecture import ModelArchitecture

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"

CANONICAL_SUFFIXES = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}
"""Transformer Engine's name of a layer's parameter -> its name in the local layer spec."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One megatron-core parameter, and the Hugging Face tensors that it consists of.

    Attributes:
        layout: a key of ``layouts.LAYOUTS``.
        sources: the tensors' names, and the names of their sizes; see ``dimensions``.
    """

    parameter: str
    layout: str
    sources: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Family:
    """The models that share one Hugging Face ``model_type``.

    ``window_use`` tells whether attention obeys config.json's ``sliding_window``.
    """

    architectures: tuple[str, ...]
    rules: tuple[Rule, ...]
    qkv_bias: bool = False
    qk_norm: bool = False
    window_use: Literal["never", "always", "by_layer"] = "never"

    def rule(self, parameter: str) -> Rule:
        """Return the rule of a megatron-core parameter, whose name has ``*`` for the layer number."""
        for rule in self.rules:
            if rule.parameter == parameter:
                return rule
        raise CheckpointError(
            "no known Hugging Face tensor for this parameter",
            where=parameter,
            expected=" or ".join(rule.parameter for rule in self.rules),
            fix="build the model from its own checkpoint's ModelArchitecture",
        )


LAYERS = "decoder.layers.*."
BLOCK = "model.layers.*."

DENSE = (
    Rule(EMBEDDING, "vocabulary", {"model.embed_tokens.weight": ("vocab", "hidden")}),
    Rule(LAYERS + "input_layernorm.weight", "replicated", {BLOCK + "input_layernorm.weight": ("hidden",)}),
    Rule(
        LAYERS + "self_attention.linear_qkv.weight",
        "query_key_value",
        {
            BLOCK + "self_attn.q_proj.weight": ("query", "hidden"),
            BLOCK + "self_attn.k_proj.weight": ("key", "hidden"),
            BLOCK + "self_attn.v_proj.weight": ("key", "hidden"),
        },
    ),
    Rule(
        LAYERS + "self_attention.linear_proj.weight",
        "columns",
        {BLOCK + "self_attn.o_proj.weight": ("hidden", "query")},
    ),
    Rule(LAYERS + "pre_mlp_layernorm.weight", "replicated", {BLOCK + "post_attention_layernorm.weight": ("hidden",)}),
    Rule(
        LAYERS + "mlp.linear_fc1.weight",
        "gate_up",
        {
            BLOCK + "mlp.gate_proj.weight": ("ffn", "hidden"),
            BLOCK + "mlp.up_proj.weight": ("ffn", "hidden"),
        },
    ),
    Rule(LAYERS + "mlp.linear_fc2.weight", "columns", {BLOCK + "mlp.down_proj.weight": ("hidden", "ffn")}),
    Rule("decoder.final_layernorm.weight", "replicated", {"model.norm.weight": ("hidden",)}),
    Rule(OUTPUT, "vocabulary", {"lm_head.weight": ("vocab", "hidden")}),
)

QKV_BIAS = (
    Rule(
        LAYERS + "self_attention.linear_qkv.bias",
        "query_key_value",
        {
            BLOCK + "self_attn.q_proj.bias": ("query",),
            BLOCK + "self_attn.k_proj.bias": ("key",),
            BLOCK + "self_attn.v_proj.bias": ("key",),
        },
    ),
)

QK_NORM = (
    Rule(LAYERS + "self_attention.q_layernorm.weight", "replicated", {BLOCK + "self_attn.q_norm.weight": ("head",)}),
    Rule(LAYERS + "self_attention.k_layernorm.weight", "replicated", {BLOCK + "self_attn.k_norm.weight": ("head",)}),
)

FAMILIES: dict[str, Family] = {
    "llama": Family(("LlamaForCausalLM",), DENSE),
    "mistral": Family(("MistralForCausalLM",), DENSE, window_use="always"),
    "qwen2": Family(("Qwen2ForCausalLM",), DENSE + QKV_BIAS, qkv_bias=True, window_use="by_layer"),
    "qwen3": Family(("Qwen3ForCausalLM",), DENSE + QK_NORM, qk_norm=True, window_use="by_layer"),
}
"""``model_type`` of config.json -> its table."""

IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)
"""Tensors in old checkpoints that are computed, not learned."""


def find_family(config: dict[str, Any], where: Path) -> str:
    """Return the key in ``FAMILIES`` for a config.json's contents; refuse unsupported families."""
    model_type = config.get("model_type")
    declared = config.get("architectures") or []
    architectures = declared if isinstance(declared, list) else [declared]
    family = FAMILIES.get(str(model_type))
    if family is None or any(name not in family.architectures for name in architectures):
        supported = [f"{name} ({key})" for key, known in FAMILIES.items() for name in known.architectures]
        raise CheckpointError(
            "unknown model architecture",
            where=str(where),
            got=f"{', '.join(map(str, architectures)) or 'no architectures'} (model_type {model_type})",
            expected=", ".join(supported),
            fix="choose a model of a supported family",
        )
    return str(model_type)


def dimensions(architecture: ModelArchitecture) -> dict[str, int]:
    """Return the sizes that the names in ``Rule.sources`` stand for."""
    return {
        "vocab": architecture.vocab_size,
        "hidden": architecture.hidden_size,
        "ffn": architecture.ffn_hidden_size,
        "head": architecture.head_dim,
        "query": architecture.num_attention_heads * architecture.head_dim,
        "key": architecture.num_query_groups * architecture.head_dim,
    }


def model_rules(architecture: ModelArchitecture) -> Iterator[tuple[Rule, int | None]]:
    """Yield every rule with its layer number (None outside the layers), in the order of the forward pass.

    A tied output layer is skipped, because its tensor is the embedding.
    """
    rules = [
        rule
        for rule in FAMILIES[architecture.family].rules
        if rule.parameter != OUTPUT or not architecture.tied_embeddings
    ]
    layered = [rule for rule in rules if rule.parameter.startswith(LAYERS)]
    yield from ((rule, None) for rule in rules if rule.parameter == EMBEDDING)
    for layer in range(architecture.num_layers):
        yield from ((rule, layer) for rule in layered)
    yield from ((rule, None) for rule in rules if rule not in layered and rule.parameter != EMBEDDING)


def at_layer(name: str, layer: int | None) -> str:
    """Return ``name`` with its ``*`` replaced by the layer's number."""
    return name if layer is None else name.replace("*", str(layer))


def tensor_shapes(architecture: ModelArchitecture) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every tensor of the Hugging Face checkpoint, in the order of the forward pass."""
    sizes = dimensions(architecture)
    return {
        at_layer(name, layer): tuple(sizes[size] for size in shape)
        for rule, layer in model_rules(architecture)
        for name, shape in rule.sources.items()
    }
