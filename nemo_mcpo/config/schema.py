# SPDX-License-Identifier: Apache-2.0
"""The schema: the type and limits of every configuration key.

Defaults are only in ``examples/conf/*.yaml``, so every key below is required.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]


def _precision(value: object) -> object:
    return {"32": "32", "32-true": "32", "bf16": "bf16", "bf16-true": "bf16", "bf16-mixed": "bf16"}.get(
        str(value), value
    )


class Section(BaseModel):
    """Keys that belong together; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


AnySection = TypeVar("AnySection", bound=Section)


class Choice(BaseModel):
    """A variant in a table: ``dpo``, or with parameters of its own, ``{name: dpo, beta: 0.1}``."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything but the name; the table checks them."""
        return dict(self.model_extra or {})


def _named(value: object) -> object:
    if isinstance(value, Mapping) and "name" not in value:
        raise PydanticCustomError(
            "name", "a name beside the parameters, {{name: …, {first}: …}}", {"first": next(iter(value), "…")}
        )
    return value if isinstance(value, Mapping | Choice) else {"name": value}


Chosen = Annotated[
    Choice,
    BeforeValidator(_named),
    PlainSerializer(lambda choice: {"name": choice.name} | choice.parameters if choice.parameters else choice.name),
]


class TrainerMCPO(Section):
    """``trainer.mcpo``: how long to train, and how often to validate and save."""

    max_epochs: Positive
    max_steps: Annotated[int, Field(ge=-1)]
    val_check_interval: NonNegative
    limit_val_batches: Positive | Fraction
    save_interval: NonNegative
    gradient_clip_val: Annotated[float, Field(ge=0.0)]
    keep_last: Positive
    keep_best: NonNegative
    monitor: Literal["val_loss", "val_rewards/accuracy", "val_rewards/margin"]


class Trainer(Section):
    """``trainer``: processes and precision."""

    num_nodes: Positive
    devices: Positive | Literal["auto"]
    accelerator: Literal["auto", "cpu", "gpu"]
    precision: Annotated[Literal["32", "bf16"], BeforeValidator(_precision)]
    distributed_timeout_minutes: Annotated[float, Field(gt=0.0)]
    mcpo: TrainerMCPO


class ExpManager(Section):
    """``exp_manager``: NeMo's keys for the log directory and the loggers."""

    explicit_log_dir: str | None
    exp_dir: str
    name: str
    resume_if_exists: bool
    max_time_per_run: Annotated[str, Field(pattern=r"^\d+:\d\d:\d\d:\d\d$")] | None
    create_tensorboard_logger: bool
    summary_writer_kwargs: dict[str, object] | None
    create_wandb_logger: bool
    wandb_logger_kwargs: dict[str, object] | None
    create_mlflow_logger: bool
    mlflow_logger_kwargs: dict[str, object] | None

    @property
    def budget_seconds(self) -> float | None:
        """``max_time_per_run`` (``DD:HH:MM:SS``) in seconds."""
        if self.max_time_per_run is None:
            return None
        days, hours, minutes, seconds = map(int, self.max_time_per_run.split(":"))
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)

    @property
    def directory(self) -> Path:
        """Where a run writes: ``explicit_log_dir``, or ``exp_dir/name``; the same for every start of the run."""
        path = Path(self.exp_dir) / self.name if self.explicit_log_dir is None else Path(self.explicit_log_dir)
        return path.expanduser().resolve()


class PretrainedCheckpoint(Section):
    """``pretrained_checkpoint``: the initial policy, which is also the reference."""

    restore_from_path: str


class MCPO(Section):
    """``model.mcpo``: the algorithm."""

    objective: Chosen
    beta: Annotated[float, Field(gt=0.0)]
    sampler: Chosen
    num_negatives: NonNegative
    scored_candidates: Positive | None
    chain_steps: Positive
    chain_candidates: Positive | None
    include_preferred: bool
    replacement: bool
    scoring_tokens: Positive
    scoring_fp8: bool
    reuse_scoring: bool | Literal["auto"]

    @property
    def sampler_keys(self) -> dict[str, object]:
        """Keys that are parameters of some samplers."""
        return self.model_dump(include={"chain_steps", "chain_candidates", "replacement"})


class Schedule(Section):
    """``model.optim.sched``: the learning-rate schedule."""

    name: Literal["constant", "CosineAnnealing", "LinearAnnealing", "InverseSquareRootAnnealing"]
    warmup_steps: NonNegative
    min_lr: Annotated[float, Field(ge=0.0)]


class Optim(Section):
    """``model.optim``: AdamW, with its states sharded over data-parallel ranks."""

    name: Literal["adamw"]
    lr: Annotated[float, Field(gt=0.0)]
    betas: Annotated[list[Annotated[float, Field(ge=0.0, lt=1.0)]], Field(min_length=2, max_length=2)]
    eps: Annotated[float, Field(gt=0.0)]
    weight_decay: Annotated[float, Field(ge=0.0)]
    moments_dtype: Literal["float32", "bfloat16"]
    cpu_offload: bool
    sched: Schedule

    @property
    def is_compact(self) -> bool:
        """Whether Adam keeps less on the GPU than float32 weights and two float32 moments."""
        return self.cpu_offload or self.moments_dtype != "float32"


class Data(Section):
    """``model.data``: files, and limits in tokens."""

    train: str
    validation: str | None
    format: str
    shuffle: bool
    max_prompt_length: Positive
    max_length: Positive
    drop_ranks: list[Positive] | None
    max_candidates: Positive | None
    ignored_keys: list[str]
    cache_dir: str


class Model(Section):
    """``model``: layout, batch, algorithm, optimizer, data."""

    global_batch_size: Positive
    micro_batch_tokens: Positive
    tensor_model_parallel_size: Positive
    pipeline_model_parallel_size: Positive
    virtual_pipeline_model_parallel_size: Annotated[int, Field(ge=2)] | None
    sequence_parallel: bool
    context_parallel_size: Positive
    attention_backend: Literal["auto", "cascade", "flash_attn", "varlen", "transformer_engine", "flex", "sdpa"]
    activations_checkpoint_granularity: Literal["selective", "full"] | None
    transformer_impl: Literal["auto", "local", "transformer_engine"]
    fp8: Literal["hybrid", "e4m3"] | None
    # Not "delayed": its scales come from earlier passes, so a log-prob would depend on what was scored before it.
    fp8_recipe: Literal["tensorwise", "blockwise"]
    seed: NonNegative
    mcpo: MCPO
    optim: Optim
    data: Data


class RunConfig(Section):
    """The configuration of a run; the root of every YAML file in ``examples/conf``."""

    trainer: Trainer
    exp_manager: ExpManager
    pretrained_checkpoint: PretrainedCheckpoint
    model: Model


def settings_of(config: Section, *keys: str, without: Collection[str] = ()) -> dict[str, object]:
    """Return settings by dotted key; the key of a section stands for all keys in it except those in ``without``."""
    found: dict[str, object] = {}
    for key in keys:
        *path, name = key.split(".")
        owner = reduce(getattr, path, config)
        if isinstance(section := getattr(owner, name), Section):
            inner = [f"{key}.{field}" for field in type(section).model_fields if f"{key}.{field}" not in without]
            found |= settings_of(config, *inner, without=without)
        else:
            found[key] = owner.model_dump(include={name})[name]
    return found


def changed(section: AnySection, changes: Mapping[str, Any]) -> AnySection:
    """Return a section with other values, which are not checked; the value of a section in it is its own changes."""
    inner = {key: getattr(section, key) for key in changes}
    update = {
        key: changed(inner[key], value) if isinstance(inner[key], Section) else value for key, value in changes.items()
    }
    return section.model_copy(update=update)
