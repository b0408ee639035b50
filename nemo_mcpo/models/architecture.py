# SPDX-License-Identifier: Apache-2.0
"""The shape of a decoder-only model, in the terms that both Hugging Face and megatron-core can be built from."""

from __future__ import annotations

from dataclasses import dataclass, field

VOCAB_MULTIPLE = 128
"""The embedding is padded to a multiple of this, whatever the tensor-parallel size, so that checkpoints reshard."""


@dataclass(frozen=True, slots=True)
class ModelArchitecture:
    """Everything that decides the parameters' shapes and the forward pass.

    Attributes:
        family: key of ``nemo_mcpo.models.huggingface.families.FAMILIES``.
        vocab_size: rows of the embedding in the Hugging Face checkpoint, before padding.
        rope_scaling: the Hugging Face ``rope_scaling`` dictionary (``rope_type`` and its parameters), or None.
        qkv_bias: biases on the query, key and value projections (Qwen2).
        qk_norm: RMSNorm on each head's query and key (Qwen3).
        max_positions: longest sequence the model was made for, tokens.
        sliding_window: attention window in tokens where the model uses one (Mistral 0.1), else None.
        dtype: dtype in which the Hugging Face checkpoint stores its weights, e.g. ``"bfloat16"``.
    """

    family: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_epsilon: float
    rope_theta: float
    rope_scaling: dict[str, object] | None = field(default=None, hash=False)
    tied_embeddings: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    dtype: str = "float32"

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the megatron-core embedding: ``vocab_size`` rounded up to ``VOCAB_MULTIPLE``."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def num_parameters(self) -> int:
        """Learned numbers, without the padding of the vocabulary; tied embeddings count once."""
        query, key = self.num_attention_heads * self.head_dim, self.num_query_groups * self.head_dim
        attention = 2 * self.hidden_size * (query + key)
        biases = (query + 2 * key) * self.qkv_bias + 2 * self.head_dim * self.qk_norm
        layer = attention + biases + 3 * self.hidden_size * self.ffn_hidden_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return embeddings + self.num_layers * layer + self.hidden_size
