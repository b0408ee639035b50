# SPDX-License-Identifier: Apache-2.0
"""The GPT: megatron-core's model, from packed prompt trees to one log-prob per completion."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.tensor_parallel.layers import _grad_accum_fusion_available
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.log_probs import completion_log_probs
from nemo_mcpo.models.replay import TapedTransformerLayer
from nemo_mcpo.platform.distributed import local_device
from nemo_mcpo.platform.packages import is_installed
from nemo_mcpo.records import TreeBatch
from nemo_mcpo.trees.attention import TreeAttention
from nemo_mcpo.trees.backends import BACKENDS, choose_backend
from nemo_mcpo.trees.params import Tape, TreeParams
from nemo_mcpo.trees.rotary import inverse_frequencies, rotation_by_position


@dataclass(frozen=True, slots=True)
class ParallelLayout:
    """How a model is laid out and computed.

    Attributes:
        dtype: dtype of parameters and activations; optimizer states and log-probs stay float32.
        transformer_impl: ``local`` or ``transformer_engine`` (``resolve_transformer_impl`` resolves ``auto``).
        attention_backend: ``auto`` or a key of ``trees.backends.BACKENDS``.
        recompute: activation recompute: ``none``, ``selective`` (attention) or ``full`` (every layer).
        fp8: None, or a Transformer Engine format (``hybrid``, ``e4m3``).
        fp8_recipe: ``tensorwise`` or ``blockwise`` scales.
        scoring_fp8: score candidates in FP8 and do everything else in bf16.
    """

    tensor: int = 1
    pipeline: int = 1
    virtual_pipeline: int | None = None
    sequence_parallel: bool = False
    dtype: torch.dtype = torch.float32
    transformer_impl: str = "local"
    attention_backend: str = "auto"
    recompute: str = "none"
    fp8: str | None = None
    fp8_recipe: str = "tensorwise"
    scoring_fp8: bool = False


class RMSNorm(torch.nn.RMSNorm):
    """torch's RMSNorm for megatron-core's local layers, whose own norm refuses sequence parallelism."""

    def __init__(self, config, hidden_size: int, eps: float = 1e-5, **kwargs) -> None:
        # The dtype of all other parameters: float32 norms on a CPU alone would change a bf16 reference.
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype, device=local_device())
        # With this mark megatron-core sums the weight's gradient over the sequence-parallel ranks.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


class TreeGPTModel(GPTModel):
    """megatron-core's GPTModel on a ``TreeBatch``; the last pipeline stage returns log-probs, others hidden states."""

    def __init__(
        self, architecture: ModelArchitecture, config: TransformerConfig, attention_backend: str, **kwargs
    ) -> None:
        super().__init__(
            config=config,
            transformer_layer_spec=layer_specs(architecture, config, kwargs.get("vp_stage")),
            vocab_size=architecture.padded_vocab_size,
            max_sequence_length=architecture.max_positions,
            position_embedding_type="none",
            share_embeddings_and_output_weights=architecture.tied_embeddings,
            **kwargs,
        )
        self.architecture = architecture
        self.attend = BACKENDS[attention_backend].attend
        # Not a buffer, so that casting the model to bf16 leaves the frequencies in float32: in bf16, distant positions
        # would get the same angles.
        self.rotary_frequencies = inverse_frequencies(
            architecture.head_dim, architecture.rope_theta, architecture.rope_scaling
        ).to(local_device())

    def forward(self, batch: TreeBatch, tape: Tape | None = None) -> Tensor:
        """Return a row's log-probs ``[N]`` in nats on the last stage, hidden states ``[S, 1, H]`` on others."""
        embedded = self.embedding(batch.tokens_S[None], batch.positions_S[None]) if self.pre_process else None
        hidden = self.decoder(
            hidden_states=embedded,
            attention_mask=None,
            packed_seq_params=TreeParams(
                spans=batch.spans,
                attend=self.attend,
                rotation=rotation_by_position(self.rotary_frequencies, batch.positions_S),
                device=batch.tokens_S.device,
                tape=tape,
            ),
        )
        if not self.post_process:
            return hidden
        tied = self.share_embeddings_and_output_weights
        return completion_log_probs(
            hidden,
            self.shared_embedding_or_output_weight() if tied else self.output_layer.weight,
            batch.predictor_T,
            batch.target_T,
            batch.num_targets_N,
            vocab_size=self.architecture.vocab_size,
            sequence_parallel=self.config.sequence_parallel,
        )


def resolve_transformer_impl(requested: str, *, needs_fp8: bool) -> str:
    """Resolve ``auto`` to Transformer Engine if it is installed and there is a GPU, else to the local layers."""
    has_engine = torch.cuda.is_available() and importlib.util.find_spec("transformer_engine") is not None
    if requested == "transformer_engine" and not has_engine:
        raise ConfigError(
            "Transformer Engine is not installed, or no GPU is available",
            where="model.transformer_impl",
            got=requested,
            fix="set model.transformer_impl=auto, or use a NeMo container on a GPU",
        )
    resolved = ("transformer_engine" if has_engine else "local") if requested == "auto" else requested
    if needs_fp8 and resolved == "local":
        raise ConfigError(
            "FP8 needs Transformer Engine, which is not available",
            where="model.transformer_impl",
            got=requested,
            fix="set model.fp8=null and model.mcpo.scoring_fp8=false, or use a NeMo container on a GPU with FP8",
        )
    return resolved


def layer_specs(
    architecture: ModelArchitecture, config: TransformerConfig, vp_stage: int | None
) -> TransformerBlockSubmodules:
    """Return megatron-core's layer specs with tree attention as ``core_attention``."""
    if config.transformer_impl == "transformer_engine":
        from megatron.core.extensions.transformer_engine import TENorm

        layer = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=architecture.qk_norm)
        norm = TENorm
    else:
        layer = get_gpt_layer_local_spec(qk_layernorm=architecture.qk_norm, normalization="RMSNorm")
        norm = RMSNorm
        layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = norm
        if architecture.qk_norm:
            attention = layer.submodules.self_attention.submodules
            attention.q_layernorm = attention.k_layernorm = norm
    layer.module = TapedTransformerLayer
    layer.submodules.self_attention.submodules.core_attention = ModuleSpec(module=TreeAttention)
    num_layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=norm)


@contextmanager
def fp8_scoring(config: TransformerConfig) -> Iterator[None]:
    """Compute a bf16 model's matrix products in FP8; megatron-core reads ``config.fp8`` in every forward pass."""
    before, config.fp8 = config.fp8, "e4m3"
    try:
        yield
    finally:
        config.fp8 = before


def transformer_config(architecture: ModelArchitecture, layout: ParallelLayout) -> TransformerConfig:
    """Return megatron-core's configuration for an architecture and layout."""
    on_gpu = torch.cuda.is_available()
    compiles = on_gpu and is_installed("triton")
    virtual = layout.virtual_pipeline
    return TransformerConfig(
        num_layers=architecture.num_layers,
        hidden_size=architecture.hidden_size,
        ffn_hidden_size=architecture.ffn_hidden_size,
        num_attention_heads=architecture.num_attention_heads,
        num_query_groups=architecture.num_query_groups,
        kv_channels=architecture.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=architecture.norm_epsilon,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=architecture.qkv_bias,
        qk_layernorm=architecture.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=virtual,
        sequence_parallel=layout.sequence_parallel,
        params_dtype=layout.dtype,
        pipeline_dtype=layout.dtype,
        # Stages exchange row lengths, so that no row is padded to the longest. megatron-core then requires a token
        # dispatcher, even without experts.
        variable_seq_lengths=layout.pipeline > 1,
        moe_token_dispatcher_type="alltoall",
        bf16=layout.dtype == torch.bfloat16,
        transformer_impl=layout.transformer_impl,
        fp8=layout.fp8,
        fp8_recipe=layout.fp8_recipe,
        use_cpu_initialization=not on_gpu,
        init_method=_leave_uninitialized,
        output_layer_init_method=_leave_uninitialized,
        embedding_init_method=_leave_uninitialized,
        batch_p2p_comm=on_gpu and not virtual,
        bias_activation_fusion=compiles,
        bias_dropout_fusion=compiles,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=on_gpu and _grad_accum_fusion_available,
        persist_layer_norm=False,
        calculate_per_token_loss=True,
        recompute_granularity=None if layout.recompute == "none" else layout.recompute,
        recompute_method="uniform" if layout.recompute == "full" else None,
        recompute_num_layers=1 if layout.recompute == "full" else None,
    )


def _leave_uninitialized(weight: Tensor) -> Tensor:
    """Skip initialization, because weights always come from a checkpoint.

    ``perform_initialization=False`` would also keep megatron-core from marking weights as tensor-parallel, and the
    gradient norm would then count only one rank's slices.
    """
    return weight


def build_gpt(architecture: ModelArchitecture, layout: ParallelLayout) -> list[TreeGPTModel]:
    """Build this rank's model chunks, one per virtual pipeline stage, with uninitialized weights."""
    config = transformer_config(architecture, layout)
    backend = choose_backend(layout.attention_backend, local_device(), layout.dtype)
    chunks = []
    for stage in range(layout.virtual_pipeline or 1):
        vp_stage = stage if layout.virtual_pipeline else None
        chunk = TreeGPTModel(
            architecture,
            config,
            backend,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
            vp_stage=vp_stage,
        )
        chunks.append(chunk)
    return chunks
