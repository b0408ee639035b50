# SPDX-License-Identifier: Apache-2.0
"""What the trainers need of a model; the names are NeMo-Aligner's where it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from nemo_mcpo.models.rows import Scored
from nemo_mcpo.records import Objective, PreferenceBatch, PromptTree


class SupportsPreferenceTraining(Protocol):
    """The seam between ``algorithms`` and ``models``: trees in, log-probs and losses per prompt out."""

    def share(self, trees: Sequence[PromptTree]) -> list[int]:
        """Indices of this replica's share of a batch."""

    def parts(self, trees: Sequence[PromptTree]) -> list[list[int]]:
        """This replica's share, cut into parts that are scored, drawn and trained one after the other."""

    def log_probs(self, trees: Sequence[PromptTree], *, share_prompts: bool = True) -> Tensor:
        """Summed log-probs of a batch without gradient, float32 ``[B, K]``, nats, the same on every rank.

        ``share_prompts=False`` computes every completion as a plain sequence with its prompt.
        """

    def score(self, trees: Sequence[PromptTree], first_column: int, *, exactly: bool = False) -> Scored:
        """The candidates of a part, from column ``first_column`` on, for the draw.

        ``exactly`` scores in the precision of training where ``model.mcpo.scoring_fp8`` asks for another.
        """

    def prepare_for_training_step(self) -> None:
        """Clear gradients before the step's first part."""

    def get_loss_and_metrics(
        self, batch: PreferenceBatch, objective: Objective, scored: Scored | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward of a part; loss ``[b]`` in nats and metrics ``[b]``, for ``collect``. Gradients add up.

        ``scored`` is what the batch was drawn from, if anything was scored: what it recorded is not computed again.
        Nothing is read on the host, so that the GPU has work while the host prepares the next part.
        """

    def collect(self, columns: Mapping[str, Tensor], rows: Sequence[int], num_rows: int) -> dict[str, Tensor]:
        """All replicas' rows of each column, ``[num_rows]`` on the CPU, the same on every rank.

        Args:
            columns: ``[b]`` by name, on the CPU or where the model put them.
            rows: the place of each of these b.
            num_rows: of all replicas together.
        """

    def finish_training_step(self, num_prompts: int) -> tuple[float, float]:
        """Update the weights by the gradient's mean over the ``num_prompts`` of all replicas.

        Returns the learning rate used and the gradient norm before clipping.
        """

    def schedule_state(self) -> dict[str, object]:
        """State of the learning-rate schedule, plain numbers."""

    def load_schedule_state(self, state: dict[str, object]) -> None:
        """Continue the learning-rate schedule."""

    def prepare_for_validation_step(self) -> None:
        """Switch to evaluation."""

    def finish_validation_step(self) -> None:
        """Switch back to training."""
