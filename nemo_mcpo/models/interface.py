# SPDX-License-Identifier: Apache-2.0
"""What trainers require of a model; method names follow NeMo-Aligner where it has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from nemo_mcpo.models.rows import Scored
from nemo_mcpo.records import Objective, PreferenceBatch, PromptTree


class SupportsPreferenceTraining(Protocol):
    """The interface between ``algorithms`` and ``models``: trees in, log-probs and per-prompt losses out."""

    def share(self, trees: Sequence[PromptTree]) -> list[int]:
        """Return the indices of this replica's share of a batch."""

    def parts(self, trees: Sequence[PromptTree]) -> list[list[int]]:
        """Split this replica's share into parts that are scored, drawn and trained one after another."""

    def log_probs(self, trees: Sequence[PromptTree], *, share_prompts: bool = True) -> Tensor:
        """Return the summed log-probs of a batch, without gradient: float32 ``[B, K]``, nats, the same on every rank.

        With ``share_prompts=False``, every completion is computed as a plain sequence after its own prompt.
        """

    def score(self, trees: Sequence[PromptTree], first_column: int, *, exactly: bool = False) -> Scored:
        """Score a part's candidates, from column ``first_column`` on, for the draw.

        ``exactly`` uses the precision of training even if ``model.mcpo.scoring_fp8`` is set.
        """

    def prepare_for_training_step(self) -> None:
        """Clear the gradients; called before the first part of a step."""

    def get_loss_and_metrics(
        self, batch: PreferenceBatch, objective: Objective, scored: Scored | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run a part forward and backward, adding to the gradients; return loss ``[b]`` (nats) and metrics ``[b]``.

        ``scored`` holds the scores that the batch was drawn from, if any; what was recorded with them is replayed. The
        results stay on the device until ``collect``, so that the GPU works while the host prepares the next part.
        """

    def collect(self, columns: Mapping[str, Tensor], rows: Sequence[int], num_rows: int) -> dict[str, Tensor]:
        """Combine each column's rows of all replicas: ``[num_rows]`` on the CPU, the same on every rank.

        Args:
            columns: name -> ``[b]``, on the CPU or on the model's device.
            rows: the places of these b values in the result.
            num_rows: rows of all replicas together.
        """

    def finish_training_step(self, num_prompts: int) -> tuple[float, float]:
        """Update the weights with the mean gradient over the ``num_prompts`` prompts of all replicas.

        Return the learning rate and the gradient norm before clipping.
        """

    def schedule_state(self) -> dict[str, object]:
        """Return the state of the learning-rate schedule as plain numbers."""

    def load_schedule_state(self, state: dict[str, object]) -> None:
        """Restore the state of the learning-rate schedule."""

    def prepare_for_validation_step(self) -> None:
        """Switch to evaluation mode."""

    def finish_validation_step(self) -> None:
        """Switch back to training mode."""
