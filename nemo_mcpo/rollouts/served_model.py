# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face directory as a server sees it: whether it is complete, and the sizes that decide where it fits.

Any model family is accepted, since a judge need not be trainable here. Only small files are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mcpo.errors import ConfigError

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
_FIX = "set it to a complete Hugging Face directory; download models from the hub first"
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Sizes of a model.

    Attributes:
        weights: total size, in bytes.
        layers, heads, kv_heads, head_dim: sizes of its attention.
        max_positions: maximum sequence length in tokens, including the scaling of rotary embedding; None if unknown.
        itemsize: bytes per element of the KV cache.
    """

    weights: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int | None
    itemsize: int = 2

    def cache_bytes(self, tensor: int, pipeline: int, itemsize: int | None = None) -> int:
        """Bytes of one token's keys and values on each GPU; key-value heads are replicated if GPUs outnumber them."""
        heads = max(1, self.kv_heads // tensor)
        return 2 * -(-self.layers // pipeline) * heads * self.head_dim * (itemsize or self.itemsize)


def read_served_model(directory: str, where: str, *, needs_template: bool = False) -> ServedModel:
    """Read the sizes of a complete directory.

    Args:
        directory: the value of the key ``where``.
        needs_template: whether it must have a chat template, for requests by conversation.

    Raises:
        ConfigError: the directory or a part of it is missing: configuration, weights, tokenizer, chat template.
    """
    path = Path(directory).expanduser()
    if not path.is_dir():
        what = "not a directory" if path.exists() else "no such directory"
        raise ConfigError(what, where=where, got=directory, fix=_FIX)
    config = _read(path / CONFIG, where)
    parts = {"tokenizer": any((path / name).is_file() for name in TOKENIZERS)}
    if needs_template:
        parts["chat template"] = has_template(path, where)
    for part, is_there in parts.items():
        if not is_there:
            raise ConfigError(f"the model has no {part}", where=where, got=directory, fix=_FIX)
    return sizes_of(config, weight_bytes(path, where), f"{where}: {path / CONFIG}")


def sizes_of(config: Mapping[str, Any], weights: int, where: str) -> ServedModel:
    """Read the sizes from a config.json; multimodal models keep the language model's part in ``text_config``."""
    text = {**config, **(config.get("text_config") or {})}
    try:
        heads, layers = int(text["num_attention_heads"]), int(text["num_hidden_layers"])
        dtype = str(text.get("dtype") or text.get("torch_dtype") or "bfloat16").removeprefix("torch.")
        return ServedModel(
            weights=weights,
            layers=layers,
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=int(text.get("head_dim") or int(text["hidden_size"]) // heads),
            max_positions=_max_positions(text),
            itemsize=BYTES.get(dtype, 2),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            "not the configuration of a language model", where=where, got=repr(error), fix="use another directory"
        ) from error


def _max_positions(text: Mapping[str, Any]) -> int | None:
    """The maximum length as vLLM derives it: some kinds of scaling extend ``max_position_embeddings``."""
    longest = text.get("max_position_embeddings")
    scaling = text.get("rope_parameters") or text.get("rope_scaling") or {}
    scaling = scaling.get("full_attention") or scaling  # transformers 5 may have one for each type of layer
    kind, factor = scaling.get("rope_type") or scaling.get("type"), scaling.get("factor")
    if longest is None or kind not in ("linear", "dynamic", "yarn") or not factor:
        return longest
    original = scaling.get("original_max_position_embeddings", longest) if kind == "yarn" else longest
    return max(int(longest), int(original * factor))


def weight_bytes(path: Path, where: str) -> int:
    """Total size of the weights; every file named in the index must exist."""
    if (path / INDEX).is_file():
        named = sorted(set(_read(path / INDEX, where).get("weight_map", {}).values()))
        missing = [name for name in named if not (path / name).is_file()]
        if missing:
            got = f"{missing[0]} and {len(missing) - 1} more" if len(missing) > 1 else missing[0]
            raise ConfigError("weights are missing", where=where, got=f"{path} without {got}", fix=_FIX)
        return sum((path / name).stat().st_size for name in named)
    for pattern in ("model.safetensors", "*.safetensors", "pytorch_model*.bin"):
        if files := [file for file in path.glob(pattern) if file.is_file()]:
            return sum(file.stat().st_size for file in files)
    raise ConfigError("the model has no weights", where=where, got=str(path), expected="*.safetensors", fix=_FIX)


def has_template(path: Path, where: str) -> bool:
    """Whether the directory has a chat template."""
    if any((path / name).is_file() for name in TEMPLATES):
        return True
    settings = path / "tokenizer_config.json"
    return settings.is_file() and bool(_read(settings, where).get("chat_template"))


def _read(file: Path, where: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("the model is not complete", where=where, got=f"{file}: {error}", fix=_FIX) from error
    if not isinstance(found, dict):
        raise ConfigError("the model is not complete", where=where, got=f"{file}: not a JSON object", fix=_FIX)
    return found
