# SPDX-License-Identifier: Apache-2.0
"""The layout of a run on its GPUs, and the rows of the replica with the largest load.

That replica has ⌈B / DP⌉ prompts per step. They are scored and trained in parts if scoring is reused, otherwise all at
once. Each part is packed into rows; a pipeline gets at least ``MICRO_BATCHES_PER_STAGE`` rows per stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nemo_mcpo.config import RunConfig
from nemo_mcpo.config.rules import reused_scoring
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.budgets import MICRO_BATCHES_PER_STAGE
from nemo_mcpo.planning.data_shape import DataShape, needs_of
from nemo_mcpo.planning.gpus import Gpu
from nemo_mcpo.variant import Need

BYTES = {"32": 4, "bf16": 2}
"""``trainer.precision`` -> bytes of a weight or an activation."""
MOMENT_BYTES = {"float32": 4, "bfloat16": 2}
"""``model.optim.moments_dtype`` -> bytes of a moment."""
HFU = 0.4
"""Assumed share of the peak that a busy GPU reaches; recompute counts as work, and idle time does not count."""
WRITE_GBS = 2.0
"""Assumed write bandwidth of the file system in total, 10^9 bytes per second."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a plan is for, apart from the layout; see ``HFU`` and ``WRITE_GBS``."""

    architecture: ModelArchitecture
    data: DataShape
    gpu: Gpu
    hfu: float = HFU
    write_gbs: float = WRITE_GBS


@dataclass(frozen=True, slots=True)
class Layout:
    """How a run uses its GPUs, and what it keeps in memory.

    Attributes:
        data: number of replicas.
        recompute: ``none``, ``selective`` or ``full``.
        reuse: what training replays of the scoring pass: ``layers``, ``products`` or None.
        scoring: whether there is a scoring pass.
        itemsize: bytes of a weight; ``moment_itemsize`` is the size of one of Adam's moments.
        offload: whether Adam's states are in host memory between updates.
    """

    tensor: int
    pipeline: int
    virtual: int
    data: int
    sequence_parallel: bool
    recompute: str
    micro_batch_tokens: int
    scoring_tokens: int
    reuse: str | None
    scoring: bool
    itemsize: int
    moment_itemsize: int
    offload: bool
    fp8: bool
    global_batch_size: int
    num_negatives: int

    @classmethod
    def from_config(cls, config: RunConfig, num_gpus: int) -> Layout:
        """Return the layout of a checked configuration; ``transformer_impl=auto`` means Transformer Engine."""
        model, mcpo = config.model, config.model.mcpo
        recompute = model.activations_checkpoint_granularity or "none"
        local = model.transformer_impl == "local"
        reuse = reused_scoring(
            mcpo.reuse_scoring, recompute=recompute, fp8=model.fp8, local=local, scoring_fp8=mcpo.scoring_fp8
        )
        scoring = Need.SCORING in needs_of(config)
        return cls(
            tensor=model.tensor_model_parallel_size,
            pipeline=model.pipeline_model_parallel_size,
            virtual=model.virtual_pipeline_model_parallel_size or 1,
            data=num_gpus // (model.tensor_model_parallel_size * model.pipeline_model_parallel_size),
            sequence_parallel=model.sequence_parallel,
            recompute=recompute,
            micro_batch_tokens=model.micro_batch_tokens,
            scoring_tokens=mcpo.scoring_tokens,
            reuse=reuse if scoring else None,
            scoring=scoring,
            itemsize=BYTES[config.trainer.precision],
            moment_itemsize=MOMENT_BYTES[model.optim.moments_dtype],
            offload=model.optim.cpu_offload,
            fp8=model.fp8 is not None or mcpo.scoring_fp8,
            global_batch_size=model.global_batch_size,
            num_negatives=mcpo.num_negatives,
        )

    @property
    def num_gpus(self) -> int:
        return self.tensor * self.pipeline * self.data

    @property
    def compact(self) -> bool:
        """Whether Adam is ``models.adam.CompactAdamW``."""
        return self.offload or self.moment_itemsize < MOMENT_BYTES["float32"]

    @property
    def split(self) -> int:
        """Number of parts into which rows are split outside the tensor-parallel regions."""
        return self.tensor if self.sequence_parallel else 1


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of the replica with the largest load, in tokens.

    Attributes:
        prompts: prompts per step.
        count: training rows per part.
        even: tokens of a mean training row.
        largest: tokens of the largest row that must fit into memory.
        targets: share of a training row's tokens that are predicted.
        gathered: keys that variable-length attention gathers per token; it repeats a prompt's keys per completion.
        recorded: scored tokens per part whose computation is recorded.
        scored: tokens of the largest scored row.
    """

    prompts: int
    count: int
    even: float
    largest: float
    targets: float
    gathered: float
    recorded: float
    scored: float


def rows_of(layout: Layout, data: DataShape) -> Rows:
    """Return the rows; the largest one has its budget's size, or that of one prompt with its completions."""
    prompts = math.ceil(layout.global_batch_size / layout.data)
    trained, scored, whole = (data.tokens(1 + count) for count in (layout.num_negatives, data.scored, data.candidates))
    part = prompts
    if layout.reuse:
        room = layout.scoring_tokens if layout.reuse == "layers" else layout.micro_batch_tokens
        part = min(prompts, max(1, int(room * layout.pipeline // scored)))
    stages = layout.pipeline if layout.pipeline > 1 else 0
    fitting = max(1, int(layout.micro_batch_tokens // trained))
    count = max(math.ceil(part / fitting), min(MICRO_BATCHES_PER_STAGE * stages, part), 1)
    even = part * trained / count
    if layout.virtual > 1:
        count = max(-(-count // layout.pipeline), 2) * layout.pipeline
    completions = 1 + layout.num_negatives
    return Rows(
        prompts=prompts,
        count=count,
        even=even,
        largest=max(layout.micro_batch_tokens, trained, data.longest_trained),
        targets=completions * data.completion_length / trained,
        gathered=(data.prompt_length + completions * (data.prompt_length + data.completion_length)) / trained,
        recorded=max(part * scored, data.longest_scored) if layout.reuse else 0.0,
        scored=max(layout.scoring_tokens, whole, data.longest) if layout.scoring else 0.0,  # as for the reference
    )
