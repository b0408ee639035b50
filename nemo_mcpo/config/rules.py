# SPDX-License-Identifier: Apache-2.0
"""Rules for keys that must fit together: with each other, with the processes, and with the model."""

from __future__ import annotations

from typing import Literal

from nemo_mcpo.config.fp8 import check_fp8
from nemo_mcpo.config.schema import RunConfig
from nemo_mcpo.errors import ConfigError


def _check_lengths(config: RunConfig) -> None:
    data = config.model.data
    if data.max_prompt_length >= data.max_length:
        raise ConfigError(
            "no room is left for a response",
            where="model.data.max_prompt_length",
            got=data.max_prompt_length,
            expected=f"less than model.data.max_length={data.max_length}",
            fix="raise max_length or lower max_prompt_length",
        )


def _check_layout(config: RunConfig) -> None:
    model = config.model
    if model.sequence_parallel and model.tensor_model_parallel_size == 1:
        raise ConfigError(
            "sequence parallelism needs more than one tensor-parallel rank",
            where="model.sequence_parallel",
            got=True,
            fix="set model.tensor_model_parallel_size > 1 or model.sequence_parallel=false",
        )
    if model.context_parallel_size > 1:
        raise ConfigError(
            "attention over prompt trees needs the whole row on every rank",
            where="model.context_parallel_size",
            got=model.context_parallel_size,
            expected=1,
            fix="set it to 1; for long rows use tensor_model_parallel_size with sequence_parallel=true",
        )
    if model.virtual_pipeline_model_parallel_size and model.pipeline_model_parallel_size == 1:
        raise ConfigError(
            "an interleaved schedule needs several pipeline stages",
            where="model.virtual_pipeline_model_parallel_size",
            got=model.virtual_pipeline_model_parallel_size,
            expected="null with model.pipeline_model_parallel_size=1",
            fix="set model.pipeline_model_parallel_size > 1 or leave it null",
        )


def _check_schedule(config: RunConfig) -> None:
    optim = config.model.optim
    if optim.sched.min_lr > optim.lr:
        raise ConfigError(
            "the schedule's minimum exceeds its peak",
            where="model.optim.sched.min_lr",
            got=optim.sched.min_lr,
            expected=f"at most model.optim.lr={optim.lr}",
            fix="lower min_lr or raise lr",
        )


def reused_scoring(
    requested: bool | str, *, recompute: str, fp8: str | None, local: bool, scoring_fp8: bool = False
) -> Literal["layers", "products"] | None:
    """Return what training reuses from the scoring pass: layer outputs, matrix products, or None for nothing.

    With FP8, Transformer Engine stores scaling factors in the forward pass for the recomputation, and a replay skips
    that pass. Its matrix products do not go through torch, so only whole layers can be replayed.

    Args:
        requested: ``model.mcpo.reuse_scoring``.
        recompute: ``none``, ``selective`` or ``full``.
        fp8: ``model.fp8``.
        scoring_fp8: ``model.mcpo.scoring_fp8``; training then needs another precision than the scoring pass used.
        local: the layers are megatron-core's local ones, not Transformer Engine's.

    Raises:
        ConfigError: ``requested`` is True, but nothing can be reused.
    """
    if requested is False or scoring_fp8:
        return None
    if recompute == "full" and fp8 is None:
        return "layers"
    if recompute != "full" and local:
        return "products"
    if requested == "auto":
        return None
    raise ConfigError(
        "with Transformer Engine, the scoring pass can replace only full recomputation, and not with FP8",
        where="model.mcpo.reuse_scoring",
        got=requested,
        fix="set it to auto, or model.activations_checkpoint_granularity=full and model.fp8=null",
    )


RULES = (
    _check_schedule,
    _check_lengths,
    _check_layout,
    check_fp8,
)


def check_processes(config: RunConfig, world_size: int) -> None:
    """Raise ConfigError if the launched processes do not fit the layout."""
    trainer, model = config.trainer, config.model
    asked = trainer.num_nodes * trainer.devices if trainer.devices != "auto" else world_size
    if asked != world_size:
        raise ConfigError(
            "the launcher started a different number of processes",
            where="trainer.devices",
            got=f"{trainer.num_nodes} nodes x {trainer.devices} devices",
            expected=f"{world_size} processes",
            fix=f"launch with torchrun --nproc-per-node={trainer.devices}, or set trainer.devices=auto",
        )
    model_parallel = model.tensor_model_parallel_size * model.pipeline_model_parallel_size
    if world_size % model_parallel:
        raise ConfigError(
            "the processes do not divide evenly into model replicas",
            where="model.tensor_model_parallel_size x model.pipeline_model_parallel_size",
            got=f"{model.tensor_model_parallel_size} x {model.pipeline_model_parallel_size}",
            expected=f"a divisor of {world_size} processes",
            fix=f"launch a multiple of {model_parallel} processes (sbatch --nodes=…, torchrun --nproc-per-node=…), "
            "or lower the sizes",
        )
    replicas = world_size // model_parallel
    if model.global_batch_size < replicas:
        raise ConfigError(
            "some replicas would have no prompt",
            where="model.global_batch_size",
            got=model.global_batch_size,
            expected=f"at least {replicas}, one per replica",
            fix="raise global_batch_size or use fewer processes",
        )


def check_architecture(config: RunConfig, architecture) -> None:
    """Raise ConfigError if the layout does not divide the model (a ``models.architecture.ModelArchitecture``)."""
    model = config.model
    tensor, stages = model.tensor_model_parallel_size, model.pipeline_model_parallel_size
    stages *= model.virtual_pipeline_model_parallel_size or 1
    pipeline_key = "model.pipeline_model_parallel_size"
    if model.virtual_pipeline_model_parallel_size:
        pipeline_key += " x model.virtual_pipeline_model_parallel_size"
    divisions = (
        ("model.tensor_model_parallel_size", tensor, "attention heads", architecture.num_attention_heads),
        ("model.tensor_model_parallel_size", tensor, "key/value heads", architecture.num_query_groups),
        ("model.tensor_model_parallel_size", tensor, "feed-forward columns", architecture.ffn_hidden_size),
        ("model.tensor_model_parallel_size", tensor, "padded vocabulary rows", architecture.padded_vocab_size),
        (pipeline_key, stages, "layers", architecture.num_layers),
    )
    for key, parts, what, total in divisions:
        if total % parts:
            fix = "choose a size that divides it"
            raise ConfigError(f"does not divide the model's {total} {what}", where=key, got=parts, fix=fix)
    limits = [("max_position_embeddings", architecture.max_positions), ("sliding_window", architecture.sliding_window)]
    for name, limit in limits:
        if limit is not None and model.data.max_length > limit:
            raise ConfigError(
                f"exceeds the model's {name}",
                where="model.data.max_length",
                got=model.data.max_length,
                expected=f"at most {limit}",
                fix=f"set model.data.max_length={limit} or lower",
            )
