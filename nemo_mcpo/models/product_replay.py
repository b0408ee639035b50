# SPDX-License-Identifier: Apache-2.0
"""Row-selected products: without recompute, the forward pass of training runs no matrix product a second time.

The scoring pass keeps the results of the matrix products and the attention of every layer. The forward pass of
training runs with gradient, as always, but takes those results, of its own rows, instead of computing them; norms,
rotary embedding and activation functions run again, and autograd sees the graph that it would see otherwise. The
memory is that of the products of the scored tokens and of the activations of the trained ones: training goes through
a step in parts of ``model.micro_batch_tokens``.

It sees the products of megatron-core's local layers; those of Transformer Engine do not pass through torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nemo_mcpo.models.tape import as_tuple, select
from nemo_mcpo.trees.params import Result

Results = list[tuple[Tensor, ...]]


@dataclass(slots=True)
class ProductRecording:
    """Keeps the results of a scored row's products and kernels, by layer, in the order in which they come.

    Attributes:
        copies: keep copies, because tensor-parallel ranks add up their products in place.
    """

    copies: bool = False
    results: dict[int, Results] = field(default_factory=dict)
    _current: Results | None = None

    def run(self, layer_number: int, compute: Callable[[], Tensor]) -> Tensor:
        """Compute the layer, and keep the results."""
        self._current = self.results[layer_number] = []
        with _Products(self.kernel):
            output = compute()
        self._current = None
        return output

    def kernel(self, compute: Callable[[], Result]) -> Result:
        """Compute, and keep the result."""
        result = compute()
        if self._current is not None:
            results = as_tuple(result)
            self._current.append(tuple(one.clone() for one in results) if self.copies else results)
        return result

    def replay(self, source_S: Tensor, *, sequence_parallel: bool) -> ProductReplay:
        """See ``tape.Recording``; products see whole rows with sequence parallelism too."""
        return ProductReplay(self.results, source_S)


@dataclass(slots=True)
class ProductReplay:
    """Reads the results of products and kernels in the order in which they were recorded."""

    results: dict[int, Results]
    source_S: Tensor
    _left: Results | None = None

    def run(self, layer_number: int, compute: Callable[[], Tensor]) -> Tensor:
        """Run the layer on the recorded results."""
        self._left = list(reversed(self.results[layer_number]))
        with _Products(self.kernel):
            output = compute()
        self._left = None
        return output

    def kernel(self, compute: Callable[[], Result]) -> Result:
        """Read; outside of a forward pass (attention that is recomputed in the backward pass) compute."""
        if self._left is None:
            return compute()
        return select(self._left.pop(), self.source_S)


class _Products(TorchFunctionMode):
    """Hands every ``torch.matmul`` to ``kernel``; inside megatron-core's layers each is one product with a weight."""

    def __init__(self, kernel: Callable[[Callable[[], Tensor]], Tensor]) -> None:
        super().__init__()
        self._kernel = kernel

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.matmul:
            return self._kernel(lambda: func(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))
