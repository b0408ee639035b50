# SPDX-License-Identifier: Apache-2.0
"""The typed schema of every configuration key, its limits, and the combinations that cannot work.

Default values live in ``examples/conf/*.yaml`` only: every key below is required. Checking imports neither torch nor
megatron, so a wrong key is reported within a second, before anything is built.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nemo_mcpo.errors import ConfigError

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]


def _precision(value: object) -> object:
    return {"32": "32", "32-true": "32", "bf16": "bf16", "bf16-true": "bf16", "bf16-mixed": "bf16"}.get(
        str(value), value
    )


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TrainerMCPO(_Section):
    """``trainer.mcpo``: how long, how often."""

    max_epochs: Positive
    max_steps: Annotated[int, Field(ge=-1)]
    val_check_interval: NonNegative
    limit_val_batches: Positive | Fraction
    save_interval: NonNegative
    gradient_clip_val: Annotated[float, Field(ge=0.0)]
    keep_last: Positive
    keep_best: NonNegative
    monitor: Literal["val_loss", "val_rewards/accuracy", "val_rewards/margin"]


class Trainer(_Section):
    """``trainer``: processes and precision."""

    num_nodes: Positive
    devices: Positive | Literal["auto"]
    accelerator: Literal["auto", "cpu", "gpu"]
    precision: Annotated[Literal["32", "bf16"], BeforeValidator(_precision)]
    mcpo: TrainerMCPO


class ExpManager(_Section):
    """``exp_manager``: NeMo's keys for the log directory and loggers."""

    explicit_log_dir: str | None
    exp_dir: str
    name: str
    resume_if_exists: bool
    create_tensorboard_logger: bool
    summary_writer_kwargs: dict[str, object] | None
    create_wandb_logger: bool
    wandb_logger_kwargs: dict[str, object] | None
    create_mlflow_logger: bool
    mlflow_logger_kwargs: dict[str, object] | None


class PretrainedCheckpoint(_Section):
    """``pretrained_checkpoint``: the initial policy, which is also the reference."""

    restore_from_path: str


class MCPO(_Section):
    """``model.mcpo``: the algorithm."""

    objective: Literal["mcpo", "dpo", "sft"]
    beta: Annotated[float, Field(gt=0.0)]
    sampler: Literal["mc_kernel", "random", "max", "min", "given"]
    num_negatives: NonNegative
    chain_steps: Positive
    chain_candidates: Positive | None
    include_preferred: bool
    replacement: bool


class Schedule(_Section):
    """``model.optim.sched``: the learning rate over steps."""

    name: Literal["constant", "CosineAnnealing", "LinearAnnealing", "InverseSquareRootAnnealing"]
    warmup_steps: NonNegative
    min_lr: Annotated[float, Field(ge=0.0)]


class Optim(_Section):
    """``model.optim``: AdamW with states sharded over data-parallel ranks."""

    name: Literal["adamw"]
    lr: Annotated[float, Field(gt=0.0)]
    betas: Annotated[list[Annotated[float, Field(ge=0.0, lt=1.0)]], Field(min_length=2, max_length=2)]
    eps: Annotated[float, Field(gt=0.0)]
    weight_decay: Annotated[float, Field(ge=0.0)]
    sched: Schedule


class Data(_Section):
    """``model.data``: files and limits, in tokens."""

    train: str
    validation: str | None
    format: Literal["nectar", "ultrafeedback", "jsonl", "tokens"]
    shuffle: bool
    max_prompt_length: Positive
    max_length: Positive
    drop_ranks: list[Positive] | None
    max_candidates: Positive | None
    cache_dir: str


class Model(_Section):
    """``model``: layout, batch, algorithm, optimizer, data."""

    global_batch_size: Positive
    micro_batch_tokens: Positive
    tensor_model_parallel_size: Positive
    pipeline_model_parallel_size: Positive
    virtual_pipeline_model_parallel_size: Annotated[int, Field(ge=2)] | None
    sequence_parallel: bool
    activations_checkpoint_granularity: Literal["selective", "full"] | None
    transformer_impl: Literal["auto", "local", "transformer_engine"]
    fp8: Literal["hybrid", "e4m3"] | None
    seed: NonNegative
    mcpo: MCPO
    optim: Optim
    data: Data


class RunConfig(_Section):
    """A whole run; the root of every YAML in ``examples/conf``."""

    trainer: Trainer
    exp_manager: ExpManager
    pretrained_checkpoint: PretrainedCheckpoint
    model: Model


def parse_config(raw: Mapping[str, object], world_size: int = 1) -> RunConfig:
    """Check a plain mapping (resolved YAML) and the combinations in it.

    Args:
        raw: nested dictionaries, as ``OmegaConf.to_container(cfg, resolve=True)`` gives them.
        world_size: number of processes that the launcher started.

    Raises:
        ConfigError: for the first offending key: its name, its value, what was expected, the cure.
    """
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as problem:
        raise _as_config_error(problem) from None
    for rule in RULES:
        rule(config)
    _check_processes(config, world_size)
    return config


def _as_config_error(problem: ValidationError) -> ConfigError:
    # Of an unknown and a missing key, the unknown one is the mistake: it is usually the missing one misspelt.
    errors = sorted(problem.errors(), key=lambda error: error["type"] != "extra_forbidden")
    error = errors[0]
    # A union's branches add their own names to the location, in characters that no key has.
    names = [str(part) for part in error["loc"] if str(part).replace("_", "").isalnum() and not str(part)[0].isupper()]
    if error["type"] not in ("extra_forbidden", "missing"):
        names = [name for name in names if name not in ("int", "float", "str", "none", "constrained")]
    key = ".".join(names)
    if error["type"] == "extra_forbidden":
        section: Any = RunConfig
        for name in names[:-1]:
            section = section.model_fields[name].annotation
        close = difflib.get_close_matches(names[-1], section.model_fields, n=1)
        cure = f"did you mean {'.'.join([*names[:-1], close[0]])}?" if close else "remove it"
        known = ", ".join(section.model_fields)
        return ConfigError("unknown key", where=key, got=error["input"], expected=f"one of: {known}", cure=cure)
    if error["type"] == "missing":
        return ConfigError("missing key", where=key, cure=f"set {key}=… on the command line or in the YAML")
    # pydantic reports one error for each branch of a union.
    branches = [
        branch["msg"].removeprefix("Input should be ") for branch in errors if branch["input"] is error["input"]
    ]
    expected = " or ".join(dict.fromkeys(branches))
    return ConfigError(
        "not a valid value", where=key, got=repr(error["input"]), expected=expected, cure=f"change {key}"
    )


def _check_lengths(config: RunConfig) -> None:
    data = config.model.data
    if data.max_prompt_length >= data.max_length:
        raise ConfigError(
            "no room is left for an answer",
            where="model.data.max_prompt_length",
            got=data.max_prompt_length,
            expected=f"less than model.data.max_length={data.max_length}",
            cure="raise max_length or lower max_prompt_length",
        )


def _check_negatives(config: RunConfig) -> None:
    mcpo, pool = config.model.mcpo, config.model.data.max_candidates
    if mcpo.objective == "sft":
        if mcpo.num_negatives:
            raise ConfigError(
                "the sft objective has no negatives",
                where="model.mcpo.num_negatives",
                got=mcpo.num_negatives,
                expected=0,
                cure="set model.mcpo.num_negatives=0",
            )
        return
    if mcpo.num_negatives < 1:
        raise ConfigError(
            f"the {mcpo.objective} objective needs negatives",
            where="model.mcpo.num_negatives",
            got=mcpo.num_negatives,
            expected="at least 1",
            cure="set model.mcpo.num_negatives=1",
        )
    if pool is not None and not mcpo.replacement and mcpo.num_negatives > pool + mcpo.include_preferred:
        raise ConfigError(
            "more negatives than candidates",
            where="model.mcpo.num_negatives",
            got=mcpo.num_negatives,
            expected=f"at most model.data.max_candidates={pool}",
            cure="lower num_negatives, raise max_candidates, or set model.mcpo.replacement=true",
        )


def _check_chain(config: RunConfig) -> None:
    mcpo, pool = config.model.mcpo, config.model.data.max_candidates
    chained = mcpo.chain_steps > 1 or mcpo.chain_candidates is not None
    if chained and mcpo.sampler != "mc_kernel":
        raise ConfigError(
            "only the mc_kernel sampler runs chains",
            where="model.mcpo.chain_steps",
            got=mcpo.chain_steps,
            expected=f"1 with sampler {mcpo.sampler}",
            cure="set model.mcpo.sampler=mc_kernel, or chain_steps=1 and chain_candidates=null",
        )
    if mcpo.chain_steps > 1 and (mcpo.chain_candidates is None or (pool and mcpo.chain_candidates >= pool)):
        raise ConfigError(
            "one step over the whole pool is already exact, a second changes nothing",
            where="model.mcpo.chain_candidates",
            got=mcpo.chain_candidates,
            expected="fewer than the candidates of a prompt",
            cure="set chain_candidates below the pool's size, or chain_steps=1",
        )


def _check_layout(config: RunConfig) -> None:
    model = config.model
    if model.sequence_parallel and model.tensor_model_parallel_size == 1:
        raise ConfigError(
            "sequence parallelism splits over tensor-parallel ranks, and there is one",
            where="model.sequence_parallel",
            got=True,
            cure="set model.tensor_model_parallel_size > 1 or model.sequence_parallel=false",
        )
    if model.virtual_pipeline_model_parallel_size and model.pipeline_model_parallel_size == 1:
        raise ConfigError(
            "interleaving needs a pipeline",
            where="model.virtual_pipeline_model_parallel_size",
            got=model.virtual_pipeline_model_parallel_size,
            expected="null with model.pipeline_model_parallel_size=1",
            cure="set model.pipeline_model_parallel_size > 1 or leave it null",
        )
    if model.fp8 and (model.transformer_impl == "local" or config.trainer.precision != "bf16"):
        raise ConfigError(
            "FP8 needs Transformer Engine's layers in bf16",
            where="model.fp8",
            got=model.fp8,
            cure="set model.transformer_impl=transformer_engine and trainer.precision=bf16, or model.fp8=null",
        )


def _check_schedule(config: RunConfig) -> None:
    optim = config.model.optim
    if optim.sched.min_lr > optim.lr:
        raise ConfigError(
            "the schedule would end above its peak",
            where="model.optim.sched.min_lr",
            got=optim.sched.min_lr,
            expected=f"at most model.optim.lr={optim.lr}",
            cure="lower min_lr or raise lr",
        )


RULES = (_check_schedule, _check_lengths, _check_negatives, _check_chain, _check_layout)


def _check_processes(config: RunConfig, world_size: int) -> None:
    trainer, model = config.trainer, config.model
    asked = trainer.num_nodes * trainer.devices if trainer.devices != "auto" else world_size
    if asked != world_size:
        raise ConfigError(
            "the launcher started another number of processes",
            where="trainer.devices",
            got=f"{trainer.num_nodes} nodes x {trainer.devices} devices",
            expected=f"{world_size} processes",
            cure=f"launch with torchrun --nproc-per-node={trainer.devices}, or set trainer.devices=auto",
        )
    model_parallel = model.tensor_model_parallel_size * model.pipeline_model_parallel_size
    if world_size % model_parallel:
        raise ConfigError(
            "the processes do not divide into model replicas",
            where="model.tensor_model_parallel_size x model.pipeline_model_parallel_size",
            got=f"{model.tensor_model_parallel_size} x {model.pipeline_model_parallel_size}",
            expected=f"a divisor of {world_size} processes",
            cure=f"launch a multiple of {model_parallel} processes (torchrun --nproc-per-node=…), or lower the sizes",
        )
    replicas = world_size // model_parallel
    if model.global_batch_size < replicas:
        raise ConfigError(
            "some data-parallel ranks would have no prompt",
            where="model.global_batch_size",
            got=model.global_batch_size,
            expected=f"at least {replicas}, one a replica",
            cure="raise global_batch_size or use fewer processes",
        )


def check_architecture(config: RunConfig, architecture) -> None:
    """Raise ConfigError where the layout does not divide the model (a ``models.architecture.ModelArchitecture``)."""
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
            cure = "choose a size that divides it"
            raise ConfigError(f"does not divide the model's {total} {what}", where=key, got=parts, cure=cure)
    limits = [("max_position_embeddings", architecture.max_positions), ("sliding_window", architecture.sliding_window)]
    for name, limit in limits:
        if limit is not None and model.data.max_length > limit:
            raise ConfigError(
                f"longer than the model's {name}",
                where="model.data.max_length",
                got=model.data.max_length,
                expected=f"at most {limit}",
                cure=f"set model.data.max_length={limit} or lower",
            )
