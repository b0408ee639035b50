# SPDX-License-Identifier: Apache-2.0
"""How a run is laid out on its GPUs, and the rows that the replica of largest load makes of the data.

The replica of largest load has ⌈B / DP⌉ prompts a step. They are scored and trained in parts where the scoring pass is
reused, else in one; a part is packed into rows, of which a pipeline gets at least ``MICRO_BATCHES_PER_STAGE`` a stage.
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
"""Of a weight or an activation, by ``trainer.precision``."""
MOMENT_BYTES = {"float32": 4, "bfloat16": 2}
"""By ``model.optim.moments_dtype``."""


HFU = 0.4
"""Assumed share of the peak that a GPU at work reaches: what it recomputes is work, waiting for a pipeline is not."""
WRITE_GBS = 2.0
"""Assumed bandwidth of the file system for the whole run, 10^9 bytes a second."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is planned for, whatever the layout; see ``HFU`` and ``WRITE_GBS``."""

    architecture: ModelArchitecture
    data: DataShape
    gpu: Gpu
    hfu: float = HFU
    write_gbs: float = WRITE_GBS


@dataclass(frozen=True, slots=True)
class Layout:
    """How a run uses its GPUs, and what it keeps.

    Attributes:
        data: replicas.
        recompute: ``none``, ``selective`` or ``full``.
        reuse: what training reads from the scoring pass: ``layers``, ``products`` or None.
        scores: there is a scoring pass.
        itemsize: bytes of a weight; ``moment_itemsize`` of one of Adam's moments.
        offload: Adam's states are in host memory between updates.
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
    scores: bool
    itemsize: int
    moment_itemsize: int
    offload: bool
    fp8: bool
    global_batch_size: int
    num_negatives: int

    @classmethod
    def from_config(cls, config: RunConfig, num_gpus: int) -> Layout:
        """The layout of a checked configuration on so many GPUs; they have Transformer Engine unless it says no."""
        model, mcpo = config.model, config.model.mcpo
        recompute = model.activations_checkpoint_granularity or "none"
        local = model.transformer_impl == "local"
        reuse = reused_scoring(
            mcpo.reuse_scoring, recompute=recompute, fp8=model.fp8, local=local, scoring_fp8=mcpo.scoring_fp8
        )
        scores = Need.SCORING in needs_of(config)
        return cls(
            tensor=model.tensor_model_parallel_size,
            pipeline=model.pipeline_model_parallel_size,
            virtual=model.virtual_pipeline_model_parallel_size or 1,
            data=num_gpus // (model.tensor_model_parallel_size * model.pipeline_model_parallel_size),
            sequence_parallel=model.sequence_parallel,
            recompute=recompute,
            micro_batch_tokens=model.micro_batch_tokens,
            scoring_tokens=mcpo.scoring_tokens,
            reuse=reuse if scores else None,
            scores=scores,
            itemsize=BYTES[config.trainer.precision],
            moment_itemsize=MOMENT_BYTES[model.optim.moments_dtype],
            offload=model.optim.cpu_offload,
            fp8=model.fp8 is not None or mcpo.scoring_fp8,
            global_batch_size=model.global_batch_size,
            num_negatives=mcpo.num_negatives,
        )

    @property
    def num_gpus(self) -> int:
        """All of them."""
        return self.tensor * self.pipeline * self.data

    @property
    def compact(self) -> bool:
        """Whether Adam is ``models.adam.CompactAdamW``."""
        return self.offload or self.moment_itemsize < MOMENT_BYTES["float32"]

    @property
    def split(self) -> int:
        """Parts into which a row is cut between the tensor-parallel regions."""
        return self.tensor if self.sequence_parallel else 1


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of the replica that has most to do, in tokens.

    Attributes:
        prompts: of the replica, a step.
        count: training rows of a part.
        even: tokens of a mean training row.
        largest: tokens of the largest row that memory must hold.
        targets: share of a training row's tokens that are predicted.
        gathered: keys that variable-length attention gathers for a token: a prompt's once for each completion too.
        recorded: scored tokens of a part.
        scored: tokens of the largest row that is scored.
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
    """See ``Rows``; a row may be as large as its budget, or as one prompt with its answers."""
    prompts = math.ceil(layout.global_batch_size / layout.data)
    trained, whole = data.tokens(1 + layout.num_negatives), data.tokens(1 + data.candidates)
    part = prompts
    if layout.reuse:
        room = layout.scoring_tokens if layout.reuse == "layers" else layout.micro_batch_tokens
        part = min(prompts, max(1, int(room * layout.pipeline // whole)))
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
        recorded=max(part * whole, data.longest) if layout.reuse else 0.0,
        scored=max(layout.scoring_tokens, whole, data.longest) if layout.scores else 0.0,
    )
