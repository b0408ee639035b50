# SPDX-License-Identifier: Apache-2.0
"""Values of config.json that change what a model computes, and that the megatron-core model does not follow.

Most stand in models that grew out of a supported family and kept its name. A key that this family's code does not read
is refused too, where another program reads it: what is trained, exported and served must be one model.

>>> next(iter(unsupported({"logit_scale": 0.0625}, "llama")))
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
    """Keys that change one thing, and the values with which they do not; ``null`` never does.

    Attributes:
        what: they change.
        neutral: key -> values that are followed, the usual one first.
        fix: beside choosing another model.
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
        "a rotary embedding of a part of each head, or of some layers",
        _one("partial_rotary_factor", "rotary_pct")
        | _off("no_rope_layer_interval", "alibi")
        | {"no_rope_layers": (), "rope_local_base_freq": ()},
        "choose a model whose heads are turned whole, in every layer",
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
        "code of the model's own, which is never run",
        {"auto_map": ()},
        "choose a model that transformers knows by itself; if this one is, delete auto_map",
    ),
)

SUPPORTED_BY: dict[str, dict[str, tuple[object, ...]]] = {
    "qwen2": {"attention_bias": (True, *OFF), "qkv_bias": (True,), "use_qkv_bias": (True,)},
    "qwen3": {"use_qk_norm": (True,), "qk_layernorm": (True,)},
}
"""Family -> values that it has anyway."""


def refuse_unsupported(config: Mapping[str, Any], family: str, where: Path) -> None:
    """CheckpointError for the first value that would be computed wrongly."""
    for kind in KINDS:
        for key, value, neutral in unsupported(config, family, (kind,)):
            raise CheckpointError(
                f"{kind.what}: {key} is not supported",
                where=str(where),
                got=f"{key}: {json.dumps(value, default=str)[:80]}",
                expected=json.dumps(neutral),
                fix=kind.fix,
            )


def unsupported(
    config: Mapping[str, Any], family: str, kinds: tuple[Kind, ...] = KINDS
) -> Iterator[tuple[str, object, object]]:
    """``(key, value, neutral value)`` of whatever is not followed."""
    for kind in kinds:
        for key, neutral in kind.neutral.items():
            value, followed = config.get(key), SUPPORTED_BY.get(family, {}).get(key, neutral)
            if value is None or _is_empty(value) or any(_same(value, one) for one in followed):
                continue
            if not _is_usual(config, key, value):
                yield key, value, followed[0] if followed else None


def _same(value: object, neutral: object) -> bool:
    """``1`` is ``1.0``, but ``True`` is not ``1``: a switch that is on is no factor of one."""
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def _is_empty(value: object) -> bool:
    return isinstance(value, list | dict) and not value


def _is_usual(config: Mapping[str, Any], key: str, value: object) -> bool:
    """Numbers that say what every model of these families does, and lists that leave no layer out."""
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
