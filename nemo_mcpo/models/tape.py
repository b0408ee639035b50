# SPDX-License-Identifier: Apache-2.0
"""Tapes: the scoring pass records, and the forward pass of training reads instead of computing again.

Scoring runs every completion of a tree through the layers; right after the draw, training runs the prompt and the
drawn completions through the same layers with the same weights. A recording keeps what scoring computed, and its
replay gives a training row the tokens that it needs of it. What is kept decides what is saved:

    two passes             (P + L C)        + (P + (1 + M) C)  + backward
    matrix products kept   (P + (L + 1) C)                     + backward          ``product_replay``
    layer outputs kept     (P + (L + 1) C)                     + backward with recompute of P + (1 + M) C
                                                                                   ``layer_replay``

for P prompt tokens and L candidates, M drawn, of C tokens. A tape stands in the row's ``TreeParams``, so it works in
every layout and schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from nemo_mcpo.records import TreeSpan
from nemo_mcpo.trees.params import Result, Tape


class Recording(Tape, Protocol):
    """A tape that keeps what it sees."""

    def replay(self, source_S: Tensor, *, sequence_parallel: bool) -> Tape:
        """The tape of a training row.

        Args:
            source_S: the recorded row's position of each of its tokens; of padding, any.
            sequence_parallel: whether rows are split over tensor-parallel ranks between the layers.
        """


class TapedTransformerLayer(TransformerLayer):
    """megatron-core's layer, which asks the row's tape where there is one."""

    def forward(self, *args, **kwargs):
        """As megatron-core's: ``(hidden states, context)``."""
        tape: Tape | None = kwargs["packed_seq_params"].tape
        compute = super().forward
        if tape is None:
            return compute(*args, **kwargs)
        return tape.run(self.layer_number, lambda: compute(*args, **kwargs)[0]), None


def as_tuple(result: Result) -> tuple[Tensor, ...]:
    """A kernel's result as a recording keeps it."""
    return result if isinstance(result, tuple) else (result,)


def select(results: tuple[Tensor, ...], source_S: Tensor) -> Any:
    """The rows ``source_S`` of a recorded result, in the form in which the kernel gave it."""
    selected = tuple(result.index_select(0, source_S) for result in results)
    return selected if len(selected) > 1 else selected[0]


def kept_positions(span: TreeSpan, columns: Sequence[int]) -> np.ndarray:
    """Positions in a scored row of a tree's prompt and of the completions in ``columns``, in this order.

    >>> kept_positions(TreeSpan(start=2, prompt_stop=4, completion_stops=(6, 7, 9)), [0, 2]).tolist()
    [2, 3, 4, 5, 7, 8]
    """
    ranges = [(span.start, span.prompt_stop), *(span.completions[column] for column in columns)]
    return np.concatenate([np.arange(*one) for one in ranges])
