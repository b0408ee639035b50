# SPDX-License-Identifier: Apache-2.0
"""What attention must know about a row: the spans of its trees, carried through megatron-core's layers.

A subclass of ``PackedSeqParams``, because megatron-core hands that to the attention unchanged, through activation
recompute and every pipeline stage. ``qkv_format`` stays None: queries then arrive as ``[S, 1, heads, head_dim]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from nemo_mcpo.records import TreeSpan
from nemo_mcpo.trees.rotary import Rotation

Value = TypeVar("Value")
Result = TypeVar("Result", Tensor, tuple[Tensor, ...])


class Tape(Protocol):
    """What the layers of a row ask while they run (``models.replay``)."""

    def run(self, layer_number: int, compute: Callable[[], Tensor]) -> Tensor:
        """The output of a layer, ``[S, 1, H]``, or this rank's part of S with sequence parallelism."""

    def kernel(self, compute: Callable[[], Result]) -> Result:
        """The output of an attention kernel in the layer that runs: tensors whose first dimension is S."""


@dataclass
class TreeParams(PackedSeqParams):
    """The row's spans and rotation, the backend that attends to them, and what it makes of the spans, once a row.

    Attributes:
        spans: see ``TreeBatch``.
        attend: of an entry of ``backends.BACKENDS``.
        rotation: what turns queries and keys before they meet; None leaves them.
        device: where the row is.
        tape: asked before anything is computed, where there is one.
    """

    spans: tuple[TreeSpan, ...] = ()
    attend: Callable[[Tensor, Tensor, Tensor, TreeParams], Tensor] | None = None
    rotation: Rotation | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tape: Tape | None = None
    _derived: dict[Callable, object] = field(default_factory=dict, repr=False)

    def derived(self, make: Callable[[TreeParams], Value]) -> Value:
        """``make(self)``, computed by the first layer and kept for the others."""
        if make not in self._derived:
            self._derived[make] = make(self)
        return self._derived[make]  # type: ignore[return-value]

    def kernel(self, compute: Callable[[], Result]) -> Result:
        """``compute()``, or what the tape has for it; for kernels whose backward pass needs only their results."""
        return self.tape.kernel(compute) if self.tape is not None else compute()
