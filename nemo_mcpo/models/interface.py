# SPDX-License-Identifier: Apache-2.0
"""What the trainers need of a model; the names are NeMo-Aligner's where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from nemo_mcpo.records import PreferenceBatch, PromptTree


class SupportsPreferenceTraining(Protocol):
    """The seam between ``algorithms`` and ``models``: trees in, log-probs and losses per prompt out."""

    def parts(self, trees: Sequence[PromptTree]) -> list[range]:
        """How a step's prompts are cut into parts that are scored, drawn and trained one after the other."""

    def score(self, trees: Sequence[PromptTree], first_column: int = 0) -> Tensor:
        """Summed log-probs without gradient, float32 ``[B, K]``, nats, the same on every rank."""

    def score_candidates(self, trees: Sequence[PromptTree], first_column: int) -> Tensor:
        """``score`` for the draw: the next ``get_loss_and_metrics`` must be of these trees, pruned."""

    def prepare_for_training_step(self) -> None:
        """Clear gradients before ``get_loss_and_metrics``."""

    def get_loss_and_metrics(self, batch: PreferenceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward; loss ``[B]`` in nats and metrics ``[B]``, the same on every rank.

        Called once a part; gradients add up.
        """

    def finish_training_step(self) -> tuple[float, float]:
        """Update the weights; returns the learning rate used and the gradient norm before clipping."""

    def schedule_state(self) -> dict[str, object]:
        """State of the learning-rate schedule, plain numbers."""

    def load_schedule_state(self, state: dict[str, object]) -> None:
        """Continue the learning-rate schedule."""

    def prepare_for_validation_step(self) -> None:
        """Switch to evaluation."""

    def finish_validation_step(self) -> None:
        """Switch back to training."""
