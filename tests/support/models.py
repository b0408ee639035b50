# SPDX-License-Identifier: Apache-2.0
"""Small random models of every family, as transformers saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS = {
    "llama": {"model_type": "llama"},
    "llama-tied-llama3-rope": {"model_type": "llama", "tie_word_embeddings": True, "rope_scaling": LLAMA3},
    "llama-linear-rope": {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}},
    "llama-multi-head": {"model_type": "llama", "num_key_value_heads": 4, "rope_theta": 500000.0},
    "mistral": {"model_type": "mistral", "sliding_window": None, "head_dim": 32},
    "qwen2": {"model_type": "qwen2"},
    "qwen2-tied": {"model_type": "qwen2", "tie_word_embeddings": True, "num_key_value_heads": 1},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "qwen3-tied": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
}


def save_model(
    directory: Path, name: str, *, max_shard_size: int = 5_000_000_000, **changes: object
) -> torch.nn.Module:
    """Save a random model in ``directory``, with norms and biases other than their initial ones and zeros."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPE | MODELS[name] | changes)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    return model


def edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a model in one file."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
