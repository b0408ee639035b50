# SPDX-License-Identifier: Apache-2.0
"""Memory of the GPU that needs the most, by part, in bytes.

    peak = (weights + gradients + optimizer + largest of training, scoring, update, saving) · (1 + fragmentation)
           + reserved

    weights     b per parameter
    gradients   4 per parameter, in float32
    optimizer   12 / DP per parameter: float32 weights and two moments (8 / DP if the weights are float32; 4 / DP less
                with moments in bfloat16); 0 with states in host memory
    training    activations of the rows in flight + recordings of scoring + larger of head and a layer's backward pass
    update      working memory of ``CompactAdamW``, for a chunk of parameters
    saving      4 (1 + 1 / DP) per element that is gathered at once, with several replicas

Weights, gradients, optimizer and saving are exact; a layer's backward pass is an upper bound. Reference log-probs are
on disk, one number per completion, and take no GPU memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.budgets import ELEMENTS_PER_EXCHANGE, ELEMENTS_PER_UPDATE
from nemo_mcpo.planning import activations as kept
from nemo_mcpo.planning.data_shape import DataShape
from nemo_mcpo.planning.parameters import layer_parameters, stage_elements, stage_parameters
from nemo_mcpo.planning.workload import Layout, Rows, rows_of

GIB = 2**30
RESERVED = 3 * GIB
"""Assumed size of CUDA's context, NCCL's buffers and cuBLAS's workspaces."""
FRAGMENTATION = 0.05
"""Assumed memory that torch's allocator holds but cannot use, as a share of the memory in use."""
PINNED = 4 / 3
"""Assumed pinned host memory per byte of states: torch pins powers of two, a third more for Llama-3.2-3B."""
UPDATE = 26
"""Bytes per element that ``CompactAdamW`` updates: three float32 states, random bits, and rounded values."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU; ``stage`` is its pipeline stage, ``parameters`` the number of parameters it holds."""

    stage: int
    parameters: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    recorded: float
    head: float
    backward: float
    scoring: float
    update: float
    saving: float

    @property
    def fixed(self) -> float:
        """Memory in use all the time."""
        return self.weights + self.gradients + self.optimizer

    @property
    def phases(self) -> dict[str, float]:
        """Additional memory by phase of the run."""
        return {
            "training": self.activations + self.recorded + max(self.head, self.backward),
            "scoring": self.recorded + self.scoring,
            "update": self.update,
            "saving": self.saving,
        }

    @property
    def worst_phase(self) -> str:
        """The phase that needs the most memory."""
        return max(self.phases, key=lambda name: self.phases[name])

    @property
    def peak(self) -> float:
        """The largest memory in use, with fragmentation and reserved memory."""
        return (self.fixed + self.phases[self.worst_phase]) * (1 + FRAGMENTATION) + RESERVED


def worst_rank(architecture: ModelArchitecture, layout: Layout, data: DataShape) -> Memory:
    """Return the memory of the rank that needs the most.

    It is in the first stage (most rows in flight, the embedding) or the last (the head).
    """
    rows = rows_of(layout, data)
    stages = {0, layout.pipeline - 1}
    return max((stage_memory(architecture, layout, rows, stage) for stage in stages), key=lambda memory: memory.peak)


def in_flight(layout: Layout, num_rows: int, stage: int) -> int:
    """Return the number of rows whose activations a stage keeps at once, summed over its chunks.

    1F1B: p − stage. Interleaved with v chunks: 2 (p − stage − 1) + (v − 1) p + 1, megatron-core's warm-up.
    """
    behind = layout.pipeline - stage
    most = behind if layout.virtual == 1 else 2 * (behind - 1) + (layout.virtual - 1) * layout.pipeline + 1
    return min(most, num_rows * layout.virtual)


def stage_memory(
    architecture: ModelArchitecture, layout: Layout, rows: Rows, stage: int, operators: kept.Operators = kept.GPU
) -> Memory:
    """Return the memory of a rank of pipeline stage ``stage``, counted from 0."""
    buckets = stage_elements(architecture, layout, stage)
    elements = sum(buckets)
    last = stage == layout.pipeline - 1
    # One row may be as large as the budget; the others in flight have the mean length.
    tokens = rows.largest + (in_flight(layout, rows.count, stage) - 1) * rows.even
    num_layers = architecture.num_layers / (layout.pipeline * layout.virtual)
    layer = kept.layer_bytes(architecture, layout, layout.recompute, rows.gathered, operators)
    activations = tokens * num_layers * layer
    if last:
        activations += kept.output_bytes(architecture, layout, rows.targets, rows.largest, operators)
    else:  # a sent output is kept until its gradient arrives
        activations += tokens * layout.itemsize * architecture.hidden_size / layout.split
    backward = kept.backward_bytes(architecture, layout, rows.largest)
    if layout.recompute == "full":  # the recomputed activations of one layer
        backward += rows.largest * kept.layer_bytes(architecture, layout, "none", rows.gathered, operators)
    fp8_copies = 2 * sum(layer_parameters(architecture, layout.tensor)) * architecture.num_layers / layout.pipeline
    gathered = min(ELEMENTS_PER_EXCHANGE, max(buckets)) if layout.data > 1 else 0
    return Memory(
        stage=stage,
        parameters=stage_parameters(architecture, layout, stage),
        weights=elements * layout.itemsize + (fp8_copies if layout.fp8 else 0),
        gradients=4 * elements,
        optimizer=0 if layout.offload else optimizer_bytes(elements, layout),
        activations=activations,
        recorded=kept.recorded_bytes(architecture, layout, rows.recorded),
        head=kept.head_bytes(architecture, layout, rows.targets * rows.largest, operators) if last else 0.0,
        backward=backward,
        scoring=kept.scoring_bytes(architecture, layout, rows.scored) if layout.scoring else 0.0,
        update=UPDATE * min(ELEMENTS_PER_UPDATE, elements / layout.data) if layout.compact else 0.0,
        saving=4 * gathered * (1 + 1 / layout.data),
    )


def optimizer_bytes(elements: float, layout: Layout) -> float:
    """Return one replica's share of Adam's moments, and of float32 weights if the model's are bf16."""
    return elements / layout.data * (2 * layout.moment_itemsize + (0 if layout.itemsize == 4 else 4))


def offloaded_bytes(architecture: ModelArchitecture, layout: Layout) -> float:
    """Return the bytes of Adam's states in host memory, for the rank with the most."""
    if not layout.offload:
        return 0.0
    return max(
        optimizer_bytes(sum(stage_elements(architecture, layout, stage)), layout) for stage in (0, layout.pipeline - 1)
    )


def checkpoint_host_bytes(memory: Memory) -> float:
    """Return the host memory that a checkpoint needs in a process of the first replica: three states and the weights.

    Only the first replica writes checkpoints and reads states.
    """
    return memory.gradients / 4 * 12 + memory.weights
