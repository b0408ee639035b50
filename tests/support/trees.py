# SPDX-License-Identifier: Apache-2.0
"""Random prompt trees, and the plain sequences that they represent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from nemo_mcpo.records import PreferenceBatch, PromptTree
from nemo_mcpo.trees.packing import PlacedTree


def random_trees(
    num_completions: Sequence[int], seed: int = 0, vocab_size: int = 300, longest: int = 7
) -> list[PromptTree]:
    """Return a tree per entry, with that many completions; prompts and completions have 1 to ``longest`` tokens."""
    random = np.random.default_rng(seed)

    def tokens() -> np.ndarray:
        return random.integers(0, vocab_size, random.integers(1, longest + 1)).astype(np.int32)

    return [
        PromptTree(1000 + index, index, tokens(), tuple(tokens() for _ in range(count)))
        for index, count in enumerate(num_completions)
    ]


def place(trees: Sequence[PromptTree]) -> list[PlacedTree]:
    """Place every tree in its own row of the tables, with completion k in column k."""
    return [PlacedTree(tree, row, tuple(range(len(tree.completions)))) for row, tree in enumerate(trees)]


def sequences(tree: PromptTree) -> list[PromptTree]:
    """Return one tree per completion, each with the same prompt."""
    return [dataclasses.replace(tree, completions=(completion,)) for completion in tree.completions]


def preference_batch(trees: Sequence[PromptTree], ref_logps: Sequence[Sequence[float]] | None = None):
    """Return a ``PreferenceBatch`` of whole trees; reference log-probs are 0 by default."""
    width = max(len(tree.completions) for tree in trees)
    tables = [torch.zeros(len(trees), width), torch.ones(len(trees), width), torch.zeros(len(trees), width)]
    for row, tree in enumerate(trees):
        count = len(tree.completions)
        if ref_logps is not None:
            tables[0][row, :count] = torch.tensor([float(value) for value in ref_logps[row]][:count])
        tables[1][row, :count] = torch.tensor([float(len(completion)) for completion in tree.completions])
        tables[2][row, :count] = 1.0
    columns = tuple(tuple(range(len(tree.completions))) for tree in trees)
    ranks = torch.arange(width).expand(len(trees), width)
    valid = tables[2].bool()
    return PreferenceBatch(
        tuple(trees), columns, tables[0], tables[1], valid, torch.full_like(tables[0], torch.nan), ranks
    )
