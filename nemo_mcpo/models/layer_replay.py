# SPDX-License-Identifier: Apache-2.0
"""Row-selected recompute: with full recompute, the scoring pass is the forward pass.

Full recompute runs every layer forward without gradient, keeps its input, and in the backward pass runs it again with
gradient. Here the first of the two reads the outputs that scoring has recorded, and only the second computes; of a
kernel whose backward pass needs only its results (attention on a CPU) it reads those too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from torch import Tensor

from nemo_mcpo.models.tape import as_tuple, select
from nemo_mcpo.trees.params import Result


@dataclass(slots=True)
class LayerRecording:
    """Keeps the output of every layer of a scored row that this rank has, and the results of its kernel."""

    outputs: dict[int, Tensor] = field(default_factory=dict)
    kernels: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    _layer_number: int = 0

    def run(self, layer_number: int, compute: Callable[[], Tensor]) -> Tensor:
        """Compute, and keep the result."""
        self._layer_number = layer_number
        self.outputs[layer_number] = compute()
        return self.outputs[layer_number]

    def kernel(self, compute: Callable[[], Result]) -> Result:
        """Compute, and keep the result."""
        result = compute()
        self.kernels[self._layer_number] = as_tuple(result)
        return result

    def replay(self, source_S: Tensor, *, sequence_parallel: bool) -> LayerReplay:
        """See ``tape.Recording``."""
        return LayerReplay(self.outputs, self.kernels, source_S, sequence_parallel)


@dataclass(slots=True)
class LayerReplay:
    """Reads layer outputs where there is no gradient; see ``tape.Recording`` for the attributes."""

    outputs: dict[int, Tensor]
    kernels: dict[int, tuple[Tensor, ...]]
    source_S: Tensor
    sequence_parallel: bool
    _layer_number: int = 0

    def run(self, layer_number: int, compute: Callable[[], Tensor]) -> Tensor:
        """Read, or compute with gradient."""
        if torch.is_grad_enabled():
            self._layer_number = layer_number
            return compute()
        output, source_S = self.outputs[layer_number], self.source_S
        if self.sequence_parallel:
            output = gather_from_sequence_parallel_region(output)
            shares = source_S.chunk(parallel_state.get_tensor_model_parallel_world_size())
            source_S = shares[parallel_state.get_tensor_model_parallel_rank()]
        return output.index_select(0, source_S)

    def kernel(self, compute: Callable[[], Result]) -> Result:
        """Read."""
        return select(self.kernels[self._layer_number], self.source_S)
