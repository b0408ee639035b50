# SPDX-License-Identifier: Apache-2.0
"""Row-selected recompute: the scoring pass stands in for the forward pass of training.

With full activation recompute a training step runs every layer forward without gradient, keeps its input, and in the
backward pass runs it once more with gradient. The scoring pass has just run the same layers on the same tokens, and
on more. So it keeps every layer's output; after the draw, the forward pass of the pruned trees reads each layer's
output from there, and only what is recomputed with gradient is computed again:

    two passes   (P + L C)       + (P + (1 + M) C) + backward with recompute
    one          (P + (L + 1) C)                   + backward with recompute

for P prompt tokens and L candidates, M drawn, of C tokens. A tape is what a layer asks; it stands in the row's
``TreeParams``, whatever the layout and the schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from nemo_mcpo.records import TreeSpan


class LayerTape(Protocol):
    """Runs one layer of a row forward, without gradient."""

    def run(self, layer_number: int, compute: Callable[[], Tensor]) -> Tensor:
        """The layer's output, ``[S, 1, H]``, or this rank's part of S with sequence parallelism."""


class Recording:
    """Keeps the output of every layer of a scored row that this rank has."""

    def __init__(self) -> None:
        self._outputs: dict[int, Tensor] = {}

    def run(self, layer_number: int, compute: Callable[[], Tensor]) -> Tensor:
        """Compute, and keep the result."""
        self._outputs[layer_number] = compute()
        return self._outputs[layer_number]

    def __getitem__(self, layer_number: int) -> Tensor:
        return self._outputs[layer_number]


@dataclass(frozen=True, slots=True)
class Replay:
    """Reads a training row's layer outputs from the recording of the scored row that it was pruned from.

    Attributes:
        recording: of the scored row.
        source_S: the scored row's position of each of this row's tokens; of padding, any.
        sequence_parallel: whether rows are split over tensor-parallel ranks.
    """

    recording: Recording
    source_S: Tensor
    sequence_parallel: bool

    def run(self, layer_number: int, compute: Callable[[], Tensor]) -> Tensor:
        """Read; nothing is computed."""
        output, source_S = self.recording[layer_number], self.source_S
        if self.sequence_parallel:
            output = gather_from_sequence_parallel_region(output)
            source_S = source_S.chunk(parallel_state.get_tensor_model_parallel_world_size())[
                parallel_state.get_tensor_model_parallel_rank()
            ]
        return output.index_select(0, source_S)


class TapedTransformerLayer(TransformerLayer):
    """megatron-core's layer; without gradient it asks the row's tape, where there is one.

    Full recompute runs its forward pass without gradient and recomputes with gradient, so the tape sees exactly the
    first of the two.
    """

    def forward(self, *args, **kwargs):
        """As megatron-core's: ``(hidden states, context)``."""
        tape = kwargs["packed_seq_params"].tape
        if tape is None or torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        compute = super().forward
        return tape.run(self.layer_number, lambda: compute(*args, **kwargs)[0]), None


def kept_positions(span: TreeSpan, columns: Sequence[int]) -> np.ndarray:
    """Positions in a scored row of a tree's prompt and of the completions in ``columns``, in this order.

    >>> kept_positions(TreeSpan(start=2, prompt_stop=4, completion_stops=(6, 7, 9)), [0, 2]).tolist()
    [2, 3, 4, 5, 7, 8]
    """
    ranges = [(span.start, span.prompt_stop), *(span.completions[column] for column in columns)]
    return np.concatenate([np.arange(*one) for one in ranges])
