# SPDX-License-Identifier: Apache-2.0
"""Memory of the GPU that needs most, part by part, in bytes.

    peak = (weights + gradients + optimizer + largest of training, scoring, update, saving) · (1 + fragmentation)
           + reserved

    weights     b a parameter
    gradients   4 a parameter, in float32
    optimizer   12 / DP a parameter: float32 weights and two moments (8 / DP where the weights are float32, 4 / DP
                less with moments in bfloat16); 0 where they are in host memory
    training    activations of the rows in flight + what scoring recorded + largest of head, a layer's backward pass
    update      working memory of a compact Adam, for a chunk of parameters
    saving      4 (1 + 1 / DP) an element that is gathered at once, where there are several replicas

Weights, gradients, optimizer and saving are exact; a layer's backward pass is a bound. The reference's log-probs are
on disk, one number a completion: they cost nothing on the GPU.
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
"""Assumed: CUDA's context, NCCL's buffers, cuBLAS's workspaces."""
FRAGMENTATION = 0.05
"""Assumed: memory that torch's allocator holds and cannot use, as a share of what is used."""
PINNED = 4 / 3
"""Assumed: torch pins host memory in powers of two, for Llama-3.2-3B a third more than the states take."""
UPDATE = 26
"""Bytes an element that a compact Adam updates: three states in float32, random bits, and what is rounded by them."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU; ``stage`` is its pipeline stage, ``parameters`` are those it holds."""

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
        """There all the time."""
        return self.weights + self.gradients + self.optimizer

    @property
    def phases(self) -> dict[str, float]:
        """What comes on top, by what the GPU does."""
        return {
            "training": self.activations + self.recorded + max(self.head, self.backward),
            "scoring": self.recorded + self.scoring,
            "update": self.update,
            "saving": self.saving,
        }

    @property
    def worst_phase(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda name: self.phases[name])

    @property
    def peak(self) -> float:
        """The most there is at once, with fragmentation and what is reserved."""
        return (self.fixed + self.phases[self.worst_phase]) * (1 + FRAGMENTATION) + RESERVED


def worst_rank(architecture: ModelArchitecture, layout: Layout, data: DataShape) -> Memory:
    """Of the first stage (most rows in flight, the embedding) and the last (the head): no other needs more."""
    rows = rows_of(layout, data)
    stages = {0, layout.pipeline - 1}
    return max((stage_memory(architecture, layout, rows, stage) for stage in stages), key=lambda memory: memory.peak)


def in_flight(layout: Layout, num_rows: int, stage: int) -> int:
    """Rows whose activations a chunk of a stage keeps at once, counted over its chunks.

    1F1B: p − stage. Interleaved with v chunks: 2 (p − stage − 1) + (v − 1) p + 1, as megatron-core warms up.
    """
    behind = layout.pipeline - stage
    most = behind if layout.virtual == 1 else 2 * (behind - 1) + (layout.virtual - 1) * layout.pipeline + 1
    return min(most, num_rows * layout.virtual)


def stage_memory(
    architecture: ModelArchitecture, layout: Layout, rows: Rows, stage: int, kernels: kept.Kernels = kept.GPU
) -> Memory:
    """Of a rank of a pipeline stage, counted from 0."""
    buckets = stage_elements(architecture, layout, stage)
    elements = sum(buckets)
    last = stage == layout.pipeline - 1
    # One row may be as large as the budget; the others in flight are as long as the mean.
    tokens = rows.largest + (in_flight(layout, rows.count, stage) - 1) * rows.even
    num_layers = architecture.num_layers / (layout.pipeline * layout.virtual)
    layer = kept.layer_bytes(architecture, layout, layout.recompute, rows.gathered, kernels)
    activations = tokens * num_layers * layer
    if last:
        activations += kept.output_bytes(architecture, layout, rows.targets, rows.largest, kernels)
    else:  # the output that was sent on stays until its gradient arrives
        activations += tokens * layout.itemsize * architecture.hidden_size / layout.split
    backward = kept.backward_bytes(architecture, layout, rows.largest)
    if layout.recompute == "full":  # the activations of the layer at hand, again
        backward += rows.largest * kept.layer_bytes(architecture, layout, "none", rows.gathered, kernels)
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
        head=kept.head_bytes(architecture, layout, rows.targets * rows.largest, kernels) if last else 0.0,
        backward=backward,
        scoring=kept.scoring_bytes(architecture, layout, rows.scored) if layout.scores else 0.0,
        update=UPDATE * min(ELEMENTS_PER_UPDATE, elements / layout.data) if layout.compact else 0.0,
        saving=4 * gathered * (1 + 1 / layout.data),
    )


def optimizer_bytes(elements: float, layout: Layout) -> float:
    """Adam's moments, and float32 weights where the model's are not, of this replica's share."""
    return elements / layout.data * (2 * layout.moment_itemsize + (0 if layout.itemsize == 4 else 4))


def offloaded_bytes(architecture: ModelArchitecture, layout: Layout) -> float:
    """Adam's states in host memory, of the rank that has most."""
    if not layout.offload:
        return 0.0
    return max(
        optimizer_bytes(sum(stage_elements(architecture, layout, stage)), layout) for stage in (0, layout.pipeline - 1)
    )


def checkpoint_host_bytes(memory: Memory) -> float:
    """Host memory of a process of the first replica, which alone writes checkpoints and reads the states: three of
    them, and the weights."""
    return memory.gradients / 4 * 12 + memory.weights
