# SPDX-License-Identifier: Apache-2.0
"""config.json of a Hugging Face directory, as a ModelArchitecture and back.

Values that config.json leaves out are transformers' own defaults for the family. Whatever would change the forward
pass in a way that the megatron-core model does not follow is refused: there is no nearly equal model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.huggingface.checkpoint import check_directory, read_json
from nemo_mcpo.models.huggingface.families import FAMILIES, find_family
from nemo_mcpo.trees.rotary import ROPE_SCALINGS

CONFIG_FILE = "config.json"
DTYPES = ("float32", "bfloat16", "float16")
REQUIRED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
}
"""Key of config.json -> the only value that is supported, where the key is there."""

SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
)


def read_architecture(directory: str | Path) -> ModelArchitecture:
    """The architecture that a Hugging Face directory's config.json describes."""
    directory = Path(directory)
    check_directory(directory)
    where = directory / CONFIG_FILE
    raw = _with_legacy_rope(read_json(where))
    family = find_family(raw, where)
    try:
        config = AutoConfig.for_model(**raw)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError("transformers refuses the configuration", where=str(where), got=error) from error
    _refuse_unsupported(config, where)
    _check_sizes(config, where)
    dtype = str(config.dtype or "float32").removeprefix("torch.")
    heads = config.num_attention_heads
    return ModelArchitecture(
        family=family,
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.intermediate_size,
        num_attention_heads=heads,
        num_query_groups=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        norm_epsilon=config.rms_norm_eps,
        rope_theta=float(config.rope_theta),
        rope_scaling=_rope_scaling(config, where),
        tied_embeddings=config.tie_word_embeddings,
        qkv_bias=FAMILIES[family].qkv_bias,
        qk_norm=FAMILIES[family].qk_norm,
        sliding_window=_sliding_window(config, FAMILIES[family].window_use, where),
        dtype=dtype if dtype in DTYPES else "float32",
    )


def _with_legacy_rope(raw: dict[str, Any]) -> dict[str, Any]:
    """transformers 5 writes ``rope_parameters``; the version used here reads ``rope_theta`` and ``rope_scaling``."""
    parameters = raw.get("rope_parameters")
    if not isinstance(parameters, dict):
        return raw
    scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
    rope = {"rope_scaling": scaling if scaling.get("rope_type", "default") != "default" else None}
    if "rope_theta" in parameters:
        rope["rope_theta"] = parameters["rope_theta"]
    if "partial_rotary_factor" in parameters:
        rope["partial_rotary_factor"] = parameters["partial_rotary_factor"]
    return raw | rope


def _refuse_unsupported(config: PretrainedConfig, where: Path) -> None:
    for key, required in REQUIRED.items():
        value = getattr(config, key, required)
        if value != required:
            raise CheckpointError(
                f"{key} is not supported",
                where=str(where),
                got=f"{key}: {json.dumps(value, default=str)}",
                expected=json.dumps(required),
                cure="choose another model" if required is not None else "use the model before quantisation",
            )


def _check_sizes(config: PretrainedConfig, where: Path) -> None:
    for key in SIZES:
        value = getattr(config, key)
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(
                "not a size", where=f"{where}: {key}", got=value, expected="an integer of at least 1"
            )
    if config.num_attention_heads % config.num_key_value_heads:
        raise CheckpointError(
            "num_attention_heads must be a multiple of num_key_value_heads",
            where=str(where),
            got=f"{config.num_attention_heads} and {config.num_key_value_heads}",
        )


def _rope_scaling(config: PretrainedConfig, where: Path) -> dict[str, object] | None:
    scaling = getattr(config, "rope_scaling", None)
    if not scaling:
        return None
    rope_type = scaling.get("rope_type", scaling.get("type"))
    if rope_type not in ROPE_SCALINGS:
        raise CheckpointError(
            "this rotary scaling is not supported",
            where=f"{where}: rope_scaling",
            got=rope_type,
            expected=", ".join(ROPE_SCALINGS),
        )
    if rope_type == "default":
        return None
    return {"rope_type": rope_type} | {
        key: value for key, value in scaling.items() if key not in ("type", "rope_type")
    }


def _sliding_window(config: PretrainedConfig, window_use: str, where: Path) -> int | None:
    """The window, where the attention of every layer uses it; None where none does."""
    window = getattr(config, "sliding_window", None)
    if window is None or window_use == "never":
        return None
    kinds = {"sliding_attention"} if window_use == "always" else set(config.layer_types)
    if len(kinds) > 1:
        raise CheckpointError(
            "a sliding window in some layers only is not supported",
            where=f"{where}: max_window_layers",
            got=config.max_window_layers,
            expected=f"0 or at least {config.num_hidden_layers}",
            cure="set use_sliding_window: false if your sequences are shorter than the window",
        )
    return window if "sliding_attention" in kinds else None


def write_config(directory: Path, architecture: ModelArchitecture, source_dir: Path | None, dtype: str) -> None:
    """Write config.json: the source model's own where there is one, with the dtype of the written weights."""
    config = read_json(source_dir / CONFIG_FILE) if source_dir else fresh_config(architecture)
    # Older readers know torch_dtype only; newer ones write dtype, and prefer it.
    config |= {key: dtype for key in ("torch_dtype", "dtype") if key == "torch_dtype" or key in config}
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def fresh_config(architecture: ModelArchitecture) -> dict[str, object]:
    """The contents of a config.json for ``architecture``."""
    config = {
        "architectures": list(FAMILIES[architecture.family].architectures),
        "model_type": architecture.family,
        "num_hidden_layers": architecture.num_layers,
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.ffn_hidden_size,
        "num_attention_heads": architecture.num_attention_heads,
        "num_key_value_heads": architecture.num_query_groups,
        "head_dim": architecture.head_dim,
        "vocab_size": architecture.vocab_size,
        "max_position_embeddings": architecture.max_positions,
        "rms_norm_eps": architecture.norm_epsilon,
        "rope_theta": architecture.rope_theta,
        "rope_scaling": architecture.rope_scaling,
        "tie_word_embeddings": architecture.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": architecture.dtype,
    }
    if FAMILIES[architecture.family].window_use != "never":
        config["sliding_window"] = architecture.sliding_window
    if architecture.sliding_window is not None:
        config |= {"use_sliding_window": True, "max_window_layers": 0}
    return config
