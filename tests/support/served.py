# SPDX-License-Identifier: Apache-2.0
"""Directories that look like models to code that only reads sizes: sparse files without content."""

from __future__ import annotations

import json
from pathlib import Path

LLAMA_70B = {
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def write_model(directory: Path, gigabytes: float = 141.1, files: int = 2, **changes: object) -> Path:
    """Write a Hugging Face directory that looks like a 70B model; ``changes`` are keys of its config.json."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(LLAMA_70B | changes))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    names = [f"model-{number}.safetensors" for number in range(files)]
    for name in names:
        with open(directory / name, "wb") as file:
            file.truncate(int(gigabytes * 1e9 / files))
    index = {"weight_map": {f"layer.{number}": name for number, name in enumerate(names)}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory
