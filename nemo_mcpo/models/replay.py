# SPDX-License-Identifier: Apache-2.0
"""Tapes: the scoring pass records what it computes, and the training pass reads it instead of computing it again.

Scoring runs every completion of a tree through the layers. Right after the draw, training runs the prompt and the
drawn completions through the same layers with the same weights. A recording keeps what scoring computed; its replay
gives each training row the tokens that the row needs. The cost depends on what is kept:

    two passes             (P + L C)        + (P + (1 + M) C)  + backward
    matrix products kept   (P + (L + 1) C)                     + backward          ``ProductRecording``
    layer outputs kept     (P + (L + 1) C)                     + backward with recompute of P + (1 + M) C
                                                                                   ``LayerRecording``

for P prompt tokens and L candidates, M drawn, of C tokens. A tape travels in the row's ``TreeParams``, so it works in
every layout and schedule.

*Layers*, with full recompute: recompute runs every layer forward without gradient, keeps its input, and runs it again
with gradient in the backward pass. The replay replaces the first of these two runs by the recorded outputs. Attention
whose backward pass needs only its results (on a CPU) is read in the second run too.

*Products*, without full recompute: the training pass runs with gradient, but reads the results of its matrix products
and of attention. Norms, rotary embedding and activation functions run again, and autograd builds the same graph as
without a tape. Memory holds the products of all scored tokens and the activations of all trained ones, so a step is
trained in parts of ``model.micro_batch_tokens``. Only megatron-core's local layers can be replayed this way:
Transformer Engine's products do not go through ``torch.matmul``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nemo_mcpo.records import TreeSpan
from nemo_mcpo.trees.params import Result, Tape

Results = list[tuple[Tensor, ...]]


class Recording(Tape, Protocol):
    """A tape that keeps what it sees."""

    def replay(self, source_S: Tensor, *, sequence_parallel: bool) -> Tape:
        """Return the tape of a training row.

        Args:
            source_S: for each token of the training row, its position in the recorded row; arbitrary for padding.
            sequence_parallel: whether rows are split over tensor-parallel ranks between the layers.
        """


class TapedTransformerLayer(TransformerLayer):
    """megatron-core's layer, run through the row's tape if it has one."""

    def forward(self, *args, **kwargs):
        """Return ``(hidden states, context)``, as megatron-core's layer does."""
        tape: Tape | None = kwargs["packed_seq_params"].tape
        compute = super().forward
        if tape is None:
            return compute(*args, **kwargs)
        return tape.run_layer(self.layer_number, lambda: compute(*args, **kwargs)[0]), None


@dataclass(slots=True)
class LayerRecording:
    """Keeps, for a scored row, the outputs of this rank's layers and of their attention."""

    outputs: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    _layer_number: int = 0

    def run_layer(self, layer_number: int, compute: Callable[[], Tensor]) -> Tensor:
        """Compute the layer and keep its output."""
        self._layer_number = layer_number
        self.outputs[layer_number] = compute()
        return self.outputs[layer_number]

    def run_operator(self, compute: Callable[[], Result]) -> Result:
        """Compute attention and keep its results."""
        result = compute()
        self.attention[self._layer_number] = _as_tuple(result)
        return result

    def replay(self, source_S: Tensor, *, sequence_parallel: bool) -> LayerReplay:
        """See ``Recording``."""
        return LayerReplay(self.outputs, self.attention, source_S, sequence_parallel)


@dataclass(slots=True)
class LayerReplay:
    """Reads recorded layer outputs where gradients are off; see ``Recording.replay`` for the last two attributes."""

    outputs: dict[int, Tensor]
    attention: dict[int, tuple[Tensor, ...]]
    source_S: Tensor
    sequence_parallel: bool
    _layer_number: int = 0

    def run_layer(self, layer_number: int, compute: Callable[[], Tensor]) -> Tensor:
        """Read the layer's output, or compute it where gradients are on."""
        if torch.is_grad_enabled():
            self._layer_number = layer_number
            return compute()
        output, source_S = self.outputs[layer_number], self.source_S
        if self.sequence_parallel:
            output = gather_from_sequence_parallel_region(output)
            shares = source_S.chunk(parallel_state.get_tensor_model_parallel_world_size())
            source_S = shares[parallel_state.get_tensor_model_parallel_rank()]
        return output.index_select(0, source_S)

    def run_operator(self, compute: Callable[[], Result]) -> Result:
        """Read the results of attention."""
        return _select(self.attention[self._layer_number], self.source_S)


@dataclass(slots=True)
class ProductRecording:
    """Keeps the results of a scored row's matrix products and attention, by layer, in the order they are computed.

    Attributes:
        copies: keep copies, because tensor-parallel ranks sum their products in place.
    """

    copies: bool = False
    results: dict[int, Results] = field(default_factory=dict)
    _current: Results | None = None

    def run_layer(self, layer_number: int, compute: Callable[[], Tensor]) -> Tensor:
        """Compute the layer and keep its results."""
        self._current = self.results[layer_number] = []
        with _Products(self.run_operator):
            output = compute()
        self._current = None
        return output

    def run_operator(self, compute: Callable[[], Result]) -> Result:
        """Compute a product or attention and keep the result."""
        result = compute()
        if self._current is not None:
            results = _as_tuple(result)
            self._current.append(tuple(one.clone() for one in results) if self.copies else results)
        return result

    def replay(self, source_S: Tensor, *, sequence_parallel: bool) -> ProductReplay:
        """See ``Recording``; products are of whole rows even with sequence parallelism."""
        return ProductReplay(self.results, source_S)


@dataclass(slots=True)
class ProductReplay:
    """Reads the recorded results of products and attention in the order they were recorded."""

    results: dict[int, Results]
    source_S: Tensor
    _left: Results | None = None

    def run_layer(self, layer_number: int, compute: Callable[[], Tensor]) -> Tensor:
        """Run the layer on the recorded results."""
        self._left = list(reversed(self.results[layer_number]))
        with _Products(self.run_operator):
            output = compute()
        self._left = None
        return output

    def run_operator(self, compute: Callable[[], Result]) -> Result:
        """Read; outside a layer's forward pass (attention that the backward pass recomputes), compute."""
        if self._left is None:
            return compute()
        return _select(self._left.pop(), self.source_S)


class _Products(TorchFunctionMode):
    """Hands every ``torch.matmul`` to ``run``; inside megatron-core's layers each is a product with a weight."""

    def __init__(self, run: Callable[[Callable[[], Tensor]], Tensor]) -> None:
        super().__init__()
        self._run = run

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.matmul:
            return self._run(lambda: func(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def kept_positions(span: TreeSpan, columns: Sequence[int]) -> np.ndarray:
    """Return the positions in a scored row of a tree's prompt and of the completions in ``columns``, in this order.

    >>> kept_positions(TreeSpan(start=2, prompt_stop=4, completion_stops=(6, 7, 9)), [0, 2]).tolist()
    [2, 3, 4, 5, 7, 8]
    """
    ranges = [(span.start, span.prompt_stop), *(span.completions[column] for column in columns)]
    return np.concatenate([np.arange(*one) for one in ranges])


def _as_tuple(result: Result) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def _select(results: tuple[Tensor, ...], source_S: Tensor) -> Any:
    """Return the rows ``source_S`` of a recorded result, as a tuple only if a tuple was recorded."""
    selected = tuple(result.index_select(0, source_S) for result in results)
    return selected if len(selected) > 1 else selected[0]
