# SPDX-License-Identifier: Apache-2.0
"""Converts config.json of a Hugging Face directory to a ModelArchitecture and back.

Missing values get transformers' defaults for the family. Values that would change the forward pass in a way that the
megatron-core model does not implement are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, __version__

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.huggingface.checkpoint import check_directory, read_json
from nemo_mcpo.models.huggingface.families import FAMILIES, find_family
from nemo_mcpo.models.huggingface.generation_settings import CHANGES_SAMPLES
from nemo_mcpo.models.huggingface.refusals import refuse_unsupported
from nemo_mcpo.models.huggingface.rope import checked_scaling, read_rope, spelled_for_4, spelled_for_both

CONFIG_FILE = "config.json"
DTYPES = ("float32", "bfloat16", "float16")
NULL_IS_DEFAULT = ("head_dim", "rope_theta", "rope_scaling", "hidden_act", "rms_norm_eps", "tie_word_embeddings")
HOW_IT_RUNS = (
    *("attn_implementation", "_attn_implementation", "return_dict", "output_attentions", "output_hidden_states"),
    *("torchscript", "gradient_checkpointing"),
)
"""Keys about how a model was run when it was saved; they do not change what it computes."""
UNREAD_WINDOW = {
    "never": ("sliding_window", "use_sliding_window", "max_window_layers"),
    "always": ("use_sliding_window", "max_window_layers"),
    "by_layer": (),
}
"""``Family.window_use`` -> keys without effect."""
_FIX = "use the config.json that belongs to the model"

SIZES = {
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_query_groups",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_positions",
}
"""Keys whose values are integers of at least 1, and their names in ``ModelArchitecture``."""


def read_config(directory: str | Path) -> dict[str, Any]:
    """Read a directory's config.json, of any family, in the spelling of the installed transformers."""
    directory = Path(directory)
    check_directory(directory)
    where = directory / CONFIG_FILE
    raw = spelled_for_4(read_json(where), str(where))
    # transformers does not treat null as a missing value.
    null = {key for key in NULL_IS_DEFAULT if raw.get(key, 0) in (None, {})}
    return {key: value for key, value in raw.items() if key not in {*null, *HOW_IT_RUNS}}


def transformers_config(raw: Mapping[str, Any], where: Path) -> PretrainedConfig:
    """Return transformers' configuration for the result of ``read_config``, with the family's defaults.

    Raises:
        CheckpointError: transformers does not know the family, or rejects a value.
    """
    if str(raw.get("model_type")) not in CONFIG_MAPPING:
        raise CheckpointError(
            f"transformers {__version__} does not know this model_type",
            where=str(where),
            got=raw.get("model_type"),
            fix="choose another model, or install a version of transformers that knows this one",
        )
    try:
        return AutoConfig.for_model(**raw)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(
            "transformers rejects the configuration",
            where=str(where),
            got=f"{type(error).__name__}: {error}"[:150],
            fix=_FIX,
        ) from error


def read_architecture(directory: str | Path) -> ModelArchitecture:
    """Return the architecture that a Hugging Face directory's config.json describes."""
    where = Path(directory) / CONFIG_FILE
    raw = read_config(directory)
    family = find_family(raw, where)
    refuse_unsupported(raw, family, where)
    rope_scaling = checked_scaling(read_rope(raw, str(where)).scaling, str(where))
    config = transformers_config(raw, where)
    _check_sizes(config, where)
    dtype = str(config.dtype or "float32").removeprefix("torch.")
    return ModelArchitecture(
        family=family,
        **{name: getattr(config, key) for key, name in SIZES.items()},
        head_dim=_head_dim(config, where),
        norm_epsilon=config.rms_norm_eps,
        rope_theta=float(config.rope_theta),
        rope_scaling=rope_scaling,
        tied_embeddings=config.tie_word_embeddings,
        qkv_bias=FAMILIES[family].qkv_bias,
        qk_norm=FAMILIES[family].qk_norm,
        sliding_window=_sliding_window(config, raw.get("layer_types"), where),
        dtype=dtype if dtype in DTYPES else "float32",
    )


def _check_sizes(config: PretrainedConfig, where: Path) -> None:
    for key in SIZES:
        value = getattr(config, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(
                "not a size", where=f"{where}: {key}", got=value, expected="an integer of at least 1", fix=_FIX
            )
    if config.num_attention_heads % config.num_key_value_heads:
        raise CheckpointError(
            "num_attention_heads must be a multiple of num_key_value_heads",
            where=str(where),
            got=f"{config.num_attention_heads} and {config.num_key_value_heads}",
            fix=_FIX,
        )
    epsilon, tied = config.rms_norm_eps, config.tie_word_embeddings
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < math.inf:
        raise CheckpointError("not a number", where=f"{where}: rms_norm_eps", got=epsilon, fix=_FIX)
    if not isinstance(tied, bool):
        raise CheckpointError("neither true nor false", where=f"{where}: tie_word_embeddings", got=tied, fix=_FIX)


def _head_dim(config: PretrainedConfig, where: Path) -> int:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if not isinstance(size, int) or size < 2 or size % 2:
        what = "the head size must be even: rotary embedding rotates pairs"
        raise CheckpointError(what, where=f"{where}: head_dim", got=size, fix=_FIX)
    return size


def _sliding_window(config: PretrainedConfig, declared: object, where: Path) -> int | None:
    """Return the window if every layer uses it, None if no layer does; refuse anything else.

    ``declared`` is config.json's own ``layer_types``, which some programs obey even for families that ignore it.
    """
    use = FAMILIES[config.model_type].window_use
    window = None if use == "never" else getattr(config, "sliding_window", None)
    if declared is not None and (not isinstance(declared, list) or len(declared) != config.num_hidden_layers):
        expected = f"a list of {config.num_hidden_layers} names"
        raise CheckpointError(
            "not one type per layer", where=f"{where}: layer_types", got=declared, expected=expected, fix=_FIX
        )
    kinds = set(map(str, config.layer_types if use == "by_layer" else declared or ()))
    kinds = kinds or {"full_attention" if window is None else "sliding_attention"}
    if kinds == {"full_attention"} and (use == "by_layer" or window is None):
        return None
    if kinds != {"sliding_attention"} or window is None:
        raise CheckpointError(
            "layers with different attention, or attention of an unknown type, are not supported",
            where=f"{where}: layer_types, max_window_layers",
            got=f"{', '.join(sorted(kinds))} and sliding_window: {json.dumps(window)}",
            expected="the same in every layer",
            fix="if sequences are shorter than the window, set use_sliding_window: false and delete layer_types",
        )
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise CheckpointError("not a size", where=f"{where}: sliding_window", got=window, fix=_FIX)
    return window


def write_config(directory: Path, architecture: ModelArchitecture, source_dir: Path | None, dtype: str) -> None:
    """Write config.json: the source model's if there is one, with the dtype of the written weights.

    Keys that transformers 4 and 5 spell differently are written in both spellings. Keys that change sampling, or that
    could enable a window that the model was trained without, are left out.
    """
    config = read_json(source_dir / CONFIG_FILE) if source_dir else fresh_config(architecture)
    # Some servers read the window's keys in families where transformers ignores them.
    unread = {*CHANGES_SAMPLES, *UNREAD_WINDOW[FAMILIES[architecture.family].window_use]}
    config = {key: value for key, value in config.items() if key not in unread}
    config |= spelled_for_both(architecture.rope_theta, architecture.rope_scaling)
    config |= {"head_dim": architecture.head_dim, "torch_dtype": dtype, "dtype": dtype}
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def fresh_config(architecture: ModelArchitecture) -> dict[str, object]:
    """Return the contents of a config.json for ``architecture``."""
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
    if FAMILIES[architecture.family].window_use == "by_layer" and architecture.sliding_window is not None:
        config |= {"use_sliding_window": True, "max_window_layers": 0}
    return config
