# SPDX-License-Identifier: Apache-2.0
"""Values in config.json that change what a model computes but that the megatron-core model does not implement.

Most appear in models that were derived from a supported family and kept its name. A key is refused even if
transformers ignores it for the family, as long as another program reads it: the trained, exported and served models
must be the same.

>>> next(unsupported({"logit_scale": 0.0625}, "llama"))[1:]
('logit_scale', 0.0625, 1.0)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mcpo.errors import CheckpointError

OFF = (False, None, 0)


@dataclass(frozen=True, slots=True)
class Kind:
    """Keys that change the same part of a model, with their supported values; ``null`` is always supported.

    Attributes:
        what: the part that the keys change.
        neutral: key -> supported values, the usual one first.
        fix: what the error message suggests.
    """

    what: str
    neutral: Mapping[str, tuple[object, ...]]
    fix: str = "choose a model of a supported family"


def _off(*keys: str) -> dict[str, tuple[object, ...]]:
    return dict.fromkeys(keys, OFF)


def _one(*keys: str) -> dict[str, tuple[object, ...]]:
    return dict.fromkeys(keys, (1.0,))


KINDS: tuple[Kind, ...] = (
    Kind("another activation", dict.fromkeys(("hidden_act", "hidden_activation"), ("silu", "swish"))),
    Kind("biases", _off("attention_bias", "mlp_bias", "bias", "use_bias", "qkv_bias", "use_qkv_bias")),
    Kind(
        "scaled or capped logits",
        _off("final_logit_softcapping", "logits_soft_cap")
        | _one("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier_scale")
        | {"dim_model_base": ()},
    ),
    Kind(
        "scaled or capped attention",
        _off("attn_logit_softcapping", "attn_temperature_tuning", "llama_4_scaling_beta", "clip_qkv")
        | _one("key_multiplier")
        | {"attention_multiplier": (), "query_pre_attn_scalar": ()},
    ),
    Kind(
        "a scaled embedding or residual",
        _one("embedding_multiplier", "residual_multiplier", "scale_emb") | _off("scale_depth"),
    ),
    Kind(
        "rotary embedding for a part of each head, or in some layers",
        _one("partial_rotary_factor", "rotary_pct")
        | _off("no_rope_layer_interval", "alibi")
        | {"no_rope_layers": (), "rope_local_base_freq": ()},
        "choose a model with full rotary embedding in every layer",
    ),
    Kind(
        "another attention mask",
        {"is_causal": (True,)}
        | _off("use_bidirectional_attention", "attention_chunk_size", "sliding_window_pattern")
        | _off("is_encoder_decoder", "add_cross_attention"),
    ),
    Kind(
        "other layers",
        _off("num_local_experts", "num_experts", "n_routed_experts", "num_kv_shared_layers", "block_configs")
        | _off("parallel_residual", "use_parallel_residual", "attn_output_gate", "swiglu_limit")
        | _off("use_qk_norm", "qk_layernorm"),
    ),
    Kind(
        "quantized weights",
        {"quantization_config": (), "compression_config": ()},
        "use the model before quantization",
    ),
    Kind(
        "custom model code, which is never run",
        {"auto_map": ()},
        "choose a model that transformers supports without custom code; if this is one, delete auto_map",
    ),
)

SUPPORTED_BY: dict[str, dict[str, tuple[object, ...]]] = {
    "qwen2": {"attention_bias": (True, *OFF), "qkv_bias": (True,), "use_qkv_bias": (True,)},
    "qwen3": {"use_qk_norm": (True,), "qk_layernorm": (True,)},
}
"""Family -> values that its models have by definition."""


def refuse_unsupported(config: Mapping[str, Any], family: str, where: Path) -> None:
    """Raise CheckpointError for the first unsupported value."""
    for kind, key, value, usual in unsupported(config, family):
        raise CheckpointError(
            f"{kind.what}: {key} is not supported",
            where=str(where),
            got=f"{key}: {json.dumps(value, default=str)[:80]}",
            expected=json.dumps(usual),
            fix=kind.fix,
        )


def unsupported(config: Mapping[str, Any], family: str) -> Iterator[tuple[Kind, str, object, object]]:
    """Yield ``(kind, key, value, usual value)`` for every unsupported value."""
    for kind in KINDS:
        for key, neutral in kind.neutral.items():
            value, followed = config.get(key), SUPPORTED_BY.get(family, {}).get(key, neutral)
            if value in (None, [], {}) or any(_same(value, one) for one in followed):
                continue
            if not _is_usual(config, key, value):
                yield kind, key, value, followed[0] if followed else None


def _same(value: object, neutral: object) -> bool:
    """Compare values; ``1`` equals ``1.0`` but not ``True``, because a switch is not a factor."""
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def _is_usual(config: Mapping[str, Any], key: str, value: object) -> bool:
    """Return whether a value describes what every model of these families does."""
    if key == "no_rope_layers":
        return isinstance(value, list) and all(one == 1 for one in value)
    if key not in ("attention_multiplier", "query_pre_attn_scalar") or not isinstance(value, int | float):
        return False
    heads, hidden, head_dim = (config.get(name) for name in ("num_attention_heads", "hidden_size", "head_dim"))
    if not head_dim and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        head_dim = hidden / heads
    if not isinstance(head_dim, int | float) or head_dim <= 0:
        return False
    usual = head_dim**-0.5 if key == "attention_multiplier" else head_dim
    return abs(value - usual) <= 1e-9 * usual
