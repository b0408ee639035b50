# SPDX-License-Identifier: Apache-2.0
"""Batches for generating; that answers are transformers' own is shown in tests/unit/evaluation/test_answers.py."""

from __future__ import annotations

from nemo_mcpo.rollouts.generation import batches_by_length


def test_batches_hold_every_row_once_and_similar_lengths() -> None:
    assert list(batches_by_length([5, 1, 3, 1, 9], 2)) == [[1, 3], [2, 0], [4]]
