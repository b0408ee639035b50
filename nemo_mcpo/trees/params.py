# SPDX-License-Identifier: Apache-2.0
"""What attention needs to know about a row: the spans of its trees, passed through megatron-core's layers.

``TreeParams`` subclasses ``PackedSeqParams`` because megatron-core passes that to attention unchanged, through
activation recompute and all pipeline stages. ``qkv_format`` stays None, so that queries arrive as
``[S, 1, heads, head_dim]``.
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
    """Records or replays what the layers of a row compute (see ``models.replay``)."""

    def run_layer(self, layer_number: int, compute: Callable[[], Tensor]) -> Tensor:
        """Return a layer's output, ``[S, 1, H]``, or this rank's part of S with sequence parallelism."""

    def run_operator(self, compute: Callable[[], Result]) -> Result:
        """Return the output of the running layer's attention operator: tensors whose first dimension is S."""


@dataclass
class TreeParams(PackedSeqParams):
    """A row's spans and rotation, and the backend for its attention with whatever that derives from the spans.

    Attributes:
        spans: see ``TreeBatch``.
        attend: the backend, from ``backends.BACKENDS``.
        rotation: applied to queries and keys; None leaves them as they are.
        device: the row's device.
        tape: records or replays what the layers compute; None computes everything.
    """

    spans: tuple[TreeSpan, ...] = ()
    attend: Callable[[Tensor, Tensor, Tensor, TreeParams], Tensor] | None = None
    rotation: Rotation | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tape: Tape | None = None
    _derived: dict[Callable, object] = field(default_factory=dict, repr=False)

    def derived(self, make: Callable[[TreeParams], Value]) -> Value:
        """Return ``make(self)``, computed in the first layer and reused in the others."""
        if make not in self._derived:
            self._derived[make] = make(self)
        return self._derived[make]  # type: ignore[return-value]

    def run_operator(self, compute: Callable[[], Result]) -> Result:
        """Return ``compute()`` or what the tape recorded; for operators whose backward pass needs only that."""
        return self.tape.run_operator(compute) if self.tape is not None else compute()
