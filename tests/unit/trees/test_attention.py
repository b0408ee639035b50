# SPDX-License-Identifier: Apache-2.0
"""Attention over a packed row is exactly the attention of every prompt and completion as a sequence of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nemo_mcpo.records import PromptTree
from nemo_mcpo.trees.attention import tree_attention, tree_attention_mask
from nemo_mcpo.trees.packing import build_row
from tests.support.trees import place, random_trees

HEAD_DIM = 8


@pytest.mark.parametrize("seed", range(3))
def test_mask_is_its_definition(seed):
    trees = random_trees([3, 1, 2], seed)
    row = build_row(place(trees), sum(tree.num_tokens for tree in trees) + 2)
    tree, completion = row.tree_S.tolist(), row.completion_S.tolist()
    num_tokens = len(tree)
    expected = [
        [
            k <= q and tree[q] == tree[k] and (completion[k] < 0 or completion[q] == completion[k])
            for k in range(num_tokens)
        ]
        for q in range(num_tokens)
    ]
    assert tree_attention_mask(row)[0, 0].tolist() == expected


def test_mask_by_hand():
    tree = PromptTree(0, 0, np.array([7, 8]), (np.array([1]), np.array([2, 3])))
    mask = tree_attention_mask(build_row(place([tree]), 6))
    assert mask.shape == (1, 1, 6, 6) and mask.dtype == torch.bool
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],  # prompt
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],  # completion 0
        [1, 1, 0, 1, 0, 0],  # completion 1: not its sibling
        [1, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],  # padding sees padding, so that no softmax is empty
    ]


def causal_attention(query, key, value):
    """softmax(q kᵀ / √d) v over one sequence; ``[s, heads, d]``, each key/value head repeated for its query heads."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
    later = torch.ones(len(query), len(query), dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, -math.inf).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, value).flatten(1)


def rows_of_sequences(row, tree: int) -> list[torch.Tensor]:
    """Places in the row of each completion's whole sequence: prompt, then completion."""
    prompt = (row.tree_S == tree) & (row.completion_S < 0)
    completions = row.completion_S[(row.tree_S == tree) & (row.completion_S >= 0)].unique()
    return [
        torch.cat([prompt.nonzero()[:, 0], (row.completion_S == number).nonzero()[:, 0]]) for number in completions
    ]


@pytest.mark.parametrize(("num_heads", "num_groups"), [(4, 4), (4, 2), (4, 1)])
def test_packed_equals_separate_with_gradients(num_heads, num_groups):
    trees = random_trees([3, 1, 2], seed=1)
    row = build_row(place(trees), sum(tree.num_tokens for tree in trees) + 2)
    generator = torch.Generator().manual_seed(0)
    num_tokens = len(row.tokens_S)
    query, key, value = (
        torch.randn(num_tokens, 1, heads, HEAD_DIM, dtype=torch.float64, generator=generator, requires_grad=True)
        for heads in (num_heads, num_groups, num_groups)
    )
    sequences = [places for tree in range(len(trees)) for places in rows_of_sequences(row, tree)]
    weights = [
        torch.randn(len(places), num_heads * HEAD_DIM, dtype=torch.float64, generator=generator)
        for places in sequences
    ]

    packed = tree_attention(query, key, value, tree_attention_mask(row))
    assert packed.shape == (num_tokens, 1, num_heads * HEAD_DIM)
    loss = sum((packed[places, 0] * weight).sum() for places, weight in zip(sequences, weights, strict=True))
    gradients = torch.autograd.grad(loss, (query, key, value))

    expected = [causal_attention(query[places, 0], key[places, 0], value[places, 0]) for places in sequences]
    for places, one in zip(sequences, expected, strict=True):
        torch.testing.assert_close(packed[places, 0], one, rtol=0, atol=1e-12)
    loss = sum((one * weight).sum() for one, weight in zip(expected, weights, strict=True))
    for gradient, one in zip(gradients, torch.autograd.grad(loss, (query, key, value)), strict=True):
        torch.testing.assert_close(gradient, one, rtol=0, atol=1e-12)


def test_padding_is_finite():
    row = build_row([], 3)
    query, key, value = (torch.randn(3, 1, 2, HEAD_DIM, generator=torch.Generator().manual_seed(0)) for _ in range(3))
    assert tree_attention(query, key, value, tree_attention_mask(row)).isfinite().all()
