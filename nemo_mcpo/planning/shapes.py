# SPDX-License-Identifier: Apache-2.0
"""Shapes of public models by name, to plan a run without downloading anything."""

from __future__ import annotations

from typing import Any

from nemo_mcpo.models.architecture import ModelArchitecture


def _shape(
    family: str, layers: int, hidden: int, ffn: int, heads: int, groups: int, vocab: int, **more: Any
) -> ModelArchitecture:
    options: dict[str, Any] = {
        "head_dim": 128,
        "max_positions": 131072,
        "norm_epsilon": 1e-5,
        "rope_theta": 5e5,
        "dtype": "bfloat16",
    }
    return ModelArchitecture(family, layers, hidden, ffn, heads, groups, vocab_size=vocab, **(options | more))


SHAPES: dict[str, ModelArchitecture] = {
    "llama-3.2-1b": _shape("llama", 16, 2048, 8192, 32, 8, 128256, head_dim=64, tied_embeddings=True),
    "llama-3.2-3b": _shape("llama", 28, 3072, 8192, 24, 8, 128256, tied_embeddings=True),
    "mistral-7b-v0.1": _shape(
        "mistral", 32, 4096, 14336, 32, 8, 32000, max_positions=32768, sliding_window=4096, rope_theta=1e4
    ),
    "mistral-7b-v0.3": _shape("mistral", 32, 4096, 14336, 32, 8, 32768, max_positions=32768, rope_theta=1e6),
    "qwen2.5-7b": _shape("qwen2", 28, 3584, 18944, 28, 4, 152064, qkv_bias=True),
    "llama-3.1-8b": _shape("llama", 32, 4096, 14336, 32, 8, 128256),
    "qwen3-8b": _shape("qwen3", 36, 4096, 12288, 32, 8, 151936, qk_norm=True, max_positions=40960),
    "llama-3.1-70b": _shape("llama", 80, 8192, 28672, 64, 8, 128256),
    "llama-3.1-405b": _shape("llama", 126, 16384, 53248, 128, 8, 128256),
}
"""Values that determine sizes, from the models' config.json; the rotary embeddings are not the models' own."""
