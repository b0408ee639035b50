# SPDX-License-Identifier: Apache-2.0
"""Deterministic packing of prompt trees into rows under a token budget.

A row holds only whole trees, so that a prompt's loss never depends on its neighbors:

    row:        [ prompt a | a0 | a1 | a2 | prompt b | b0 | b1 | padding ]
    positions:    0 … Pa-1  Pa…  Pa…  Pa…   0 … Pb-1   Pb…  Pb…  0 …
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from nemo_mcpo.platform.transfer import on_device
from nemo_mcpo.records import PromptTree, TreeBatch, TreeSpan

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class PlacedTree:
    """A tree and its place in the caller's ``[B, K]`` tables: row ``prompt`` and one column per completion."""

    tree: PromptTree
    prompt: int
    columns: tuple[int, ...]


def separate(placed: PlacedTree) -> list[PlacedTree]:
    """Return the same completions, each in its own tree with a copy of the prompt."""
    return [
        PlacedTree(replace(placed.tree, completions=(completion,)), placed.prompt, (column,))
        for completion, column in zip(placed.tree.completions, placed.columns, strict=True)
    ]


def as_sequences(batch: TreeBatch) -> TreeBatch:
    """Return the row with each tree as one plain causal sequence; no tree may have more than one completion."""
    return replace(batch, spans=tuple(TreeSpan(span.start, span.stop) for span in batch.spans))


def share_between_ranks(num_tokens: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Return the indices of each rank's items; longest first, each goes to the rank with the fewest tokens so far."""
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for item in sorted(range(len(num_tokens)), key=lambda item: (-num_tokens[item], item)):
        rank = loads.index(min(loads))
        shares[rank].append(item)
        loads[rank] += num_tokens[item]
    return [sorted(share) for share in shares]


def pack_into_rows(num_tokens: Sequence[int], budget: int, *, at_least: int = 1) -> list[list[int]]:
    """Return the indices of each row's items: few rows, under the budget, and evenly filled if that fits.

    Even rows keep pipeline stages equally busy and minimize peak memory. An item above the budget gets its own row.

    Args:
        num_tokens: tokens of each item.
        budget: tokens per row.
        at_least: minimum number of rows, as far as there are items to fill them.

    >>> pack_into_rows([2, 3, 3, 4, 6], budget=10)
    [[2, 4], [0, 1, 3]]
    """
    first_fit = _first_fit(num_tokens, budget)
    num_rows = max(len(first_fit), min(at_least, len(num_tokens)))
    even = share_between_ranks(num_tokens, num_rows)
    if all(len(row) < 2 or sum(num_tokens[item] for item in row) <= budget for row in even):
        return even
    return first_fit


def _first_fit(num_tokens: Sequence[int], budget: int) -> list[list[int]]:
    """Return the indices of each row's items; longest first, each goes to the first row with room for it."""
    rows: list[list[int]] = []
    free: list[int] = []
    for item in sorted(range(len(num_tokens)), key=lambda item: (-num_tokens[item], item)):
        row = next((row for row, room in enumerate(free) if num_tokens[item] <= room), None)
        if row is None:
            rows.append([])
            free.append(budget)
            row = len(rows) - 1
        rows[row].append(item)
        free[row] -= num_tokens[item]
    return rows


def build_row(
    placed: Sequence[PlacedTree], length: int, device: torch.device = _CPU, *, first_column: int = 0
) -> TreeBatch:
    """Build one packed row of ``length`` tokens, padded after the trees; without trees, all of it is padding.

    Completions in columns before ``first_column`` have no targets, so their log-prob is 0.

    Raises:
        ValueError: ``length`` is shorter than the trees.
    """
    num_tokens = sum(item.tree.num_tokens for item in placed)
    if num_tokens > length:
        raise ValueError(f"a row of {length} tokens cannot hold trees of {num_tokens} tokens")
    tokens_S, positions_S = np.zeros(length, np.int64), np.zeros(length, np.int64)
    spans: list[TreeSpan] = []
    predictors, targets = [], []
    num_targets: list[int] = []
    prompts: list[int] = []
    columns: list[int] = []
    start = 0
    for tree, prompt, tree_columns in ((item.tree, item.prompt, item.columns) for item in placed):
        num_prompt = len(tree.prompt_tokens)
        prompt_stop = stop = start + num_prompt
        tokens_S[start:stop] = tree.prompt_tokens
        positions_S[start:stop] = np.arange(num_prompt)
        stops: list[int] = []
        for tokens, column in zip(tree.completions, tree_columns, strict=True):
            first, stop = stop, stop + len(tokens)
            tokens_S[first:stop] = tokens
            positions_S[first:stop] = np.arange(num_prompt, num_prompt + len(tokens))
            if column >= first_column:
                # The last prompt position predicts every completion's first token.
                predictors.append(np.concatenate(([prompt_stop - 1], np.arange(first, stop - 1))))
                targets.append(tokens)
            num_targets.append(len(tokens) if column >= first_column else 0)
            prompts.append(prompt)
            columns.append(column)
            stops.append(stop)
        spans.append(TreeSpan(start, prompt_stop, tuple(stops)))
        start = stop
    if start < length:
        spans.append(TreeSpan(start, length))

    numbers, places = np.unique(np.asarray(prompts, dtype=np.int64), return_inverse=True)
    integers = {
        "tokens_S": tokens_S,
        "positions_S": positions_S,
        "predictor_T": _joined(predictors),
        "target_T": _joined(targets),
        "num_targets_N": num_targets,
        "prompt_N": prompts,
        "column_N": columns,
        "prompts_b": numbers,
        "place_N": places,
    }
    arrived = on_device([torch.from_numpy(np.asarray(values, dtype=np.int64)) for values in integers.values()], device)
    return TreeBatch(spans=tuple(spans), **dict(zip(integers, arrived, strict=True)))


def _joined(parts: list) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
