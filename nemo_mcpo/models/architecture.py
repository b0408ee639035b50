# SPDX-License-Identifier: Apache-2.0
"""The shape of a decoder-only model, in terms that map to both Hugging Face and megatron-core."""

from __future__ import annotations

from dataclasses import dataclass, field

VOCAB_MULTIPLE = 128
"""The embedding is padded to a multiple of this under every tensor-parallel size, so that checkpoints reshard."""


@dataclass(frozen=True, slots=True)
class ModelArchitecture:
    """Everything that determines the parameters' shapes and the forward pass.

    Attributes:
        family: key of ``nemo_mcpo.models.huggingface.families.FAMILIES``.
        vocab_size: rows of the embedding in the Hugging Face checkpoint, before padding.
        rope_scaling: the Hugging Face ``rope_scaling`` dictionary (``rope_type`` and its parameters), or None.
        qkv_bias: biases on the query, key and value projections (Qwen2).
        qk_norm: RMSNorm on each head's query and key (Qwen3).
        max_positions: longest sequence that the model supports, in tokens.
        sliding_window: attention window in tokens (Mistral 0.1), or None for full attention.
        dtype: dtype of the weights in the Hugging Face checkpoint, e.g. ``"bfloat16"``.
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
        """Rows of the megatron-core embedding: ``vocab_size`` rounded up to a multiple of ``VOCAB_MULTIPLE``."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def num_parameters(self) -> int:
        """Number of learned parameters, without vocabulary padding; tied embeddings count once."""
        query, key = self.num_attention_heads * self.head_dim, self.num_query_groups * self.head_dim
        attention = 2 * self.hidden_size * (query + key)
        biases = (query + 2 * key) * self.qkv_bias + 2 * self.head_dim * self.qk_norm
        layer = attention + biases + 3 * self.hidden_size * self.ffn_hidden_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return embeddings + self.num_layers * layer + self.hidden_size
