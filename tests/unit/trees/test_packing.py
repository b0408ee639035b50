# SPDX-License-Identifier: Apache-2.0
"""Packing: whole trees, under the budget, the same every time; a row says what a naive walk over the trees says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from nemo_mcpo.records import TreeSpan
from nemo_mcpo.trees.packing import build_row, pack_into_rows, share_between_ranks
from tests.support.trees import place, random_trees

SIZES = [np.random.default_rng(seed).integers(1, 60, size=40).tolist() for seed in range(5)]


def test_rows_by_hand():
    # Longest first: 6 opens a row, 5 does not fit beside it, 4 fits beside 6 (6 + 4 = 10), 3 beside 5, 2 beside 5 + 3.
    assert pack_into_rows([2, 3, 4, 5, 6], budget=10) == [[4, 2], [3, 1, 0]]


def test_equal_sizes_keep_their_order():
    assert pack_into_rows([4, 4, 4, 4, 4], budget=8) == [[0, 1], [2, 3], [4]]


def test_a_larger_item_has_a_row_of_its_own():
    assert pack_into_rows([3, 20, 3], budget=8) == [[1], [0, 2]]


def test_nothing_makes_no_row():
    assert pack_into_rows([], budget=8) == []


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("budget", [1, 40, 100, 10_000])
def test_every_item_once_and_no_row_over_the_budget(sizes, budget):
    rows = pack_into_rows(sizes, budget)
    assert sorted(item for row in rows for item in row) == list(range(len(sizes)))
    assert all(sum(sizes[item] for item in row) <= budget or len(row) == 1 for row in rows)
    assert rows == pack_into_rows(list(sizes), budget)


@pytest.mark.parametrize("sizes", SIZES)
def test_first_fit_leaves_at_most_one_row_half_empty(sizes):
    loads = [sum(sizes[item] for item in row) for row in pack_into_rows(sizes, budget=100)]
    assert sum(load <= 100 / 2 for load in loads) <= 1


def test_shares_by_hand():
    # 7 to rank 0, 5 to rank 1, 4 to rank 1 (9), 3 to rank 0 (10), 1 to rank 1 (10).
    assert share_between_ranks([1, 3, 4, 5, 7], 2) == [[1, 4], [0, 2, 3]]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_shares_are_balanced(sizes, num_ranks):
    shares = share_between_ranks(sizes, num_ranks)
    assert sorted(item for share in shares for item in share) == list(range(len(sizes)))
    assert all(share == sorted(share) for share in shares)
    loads = [sum(sizes[item] for item in share) for share in shares]
    # An item goes to the rank with the fewest tokens, so that no rank is ahead of another by more than one item.
    assert max(loads) - min(loads) <= max(sizes)
    assert shares == share_between_ranks(list(sizes), num_ranks)


def test_more_ranks_than_items():
    assert share_between_ranks([5, 3], 3) == [[0], [1], []]


@pytest.mark.parametrize("seed", range(5))
def test_a_row_says_what_a_walk_over_the_trees_says(seed):
    trees = random_trees([3, 1, 4, 2], seed)
    placed = [
        dataclasses.replace(item, prompt=10 + number, columns=tuple(range(2, 2 + len(item.columns))))
        for number, item in enumerate(place(trees))
    ]
    num_tokens = sum(tree.num_tokens for tree in trees)
    row = build_row(placed, num_tokens + 3)

    names = [field.name for field in dataclasses.fields(row) if field.name != "spans"]
    expected: dict[str, list[int]] = {name: [] for name in names}
    spans = []
    for item in placed:
        tree = item.tree
        first_of_tree = len(expected["tokens_S"])
        expected["tokens_S"] += tree.prompt_tokens.tolist()
        expected["positions_S"] += range(len(tree.prompt_tokens))
        prompt_stop, stops = len(expected["tokens_S"]), []
        for column, completion in zip(item.columns, tree.completions, strict=True):
            completion_number = len(expected["prompt_N"])
            expected["prompt_N"].append(item.prompt)
            expected["column_N"].append(column)
            for place_in_completion, token in enumerate(completion.tolist()):
                here = len(expected["tokens_S"])
                is_first = place_in_completion == 0
                last_of_prompt = first_of_tree + len(tree.prompt_tokens) - 1
                expected["predictor_T"].append(last_of_prompt if is_first else here - 1)
                expected["target_T"].append(token)
                expected["completion_T"].append(completion_number)
                expected["tokens_S"].append(token)
                expected["positions_S"].append(len(tree.prompt_tokens) + place_in_completion)
            stops.append(len(expected["tokens_S"]))
        spans.append(TreeSpan(first_of_tree, prompt_stop, tuple(stops)))
    for name in ("tokens_S", "positions_S"):
        expected[name] += [0] * 3
    assert row.spans == (*spans, TreeSpan(num_tokens, num_tokens + 3))
    assert {name: getattr(row, name).tolist() for name in expected} == expected
    assert {getattr(row, name).dtype for name in expected} == {torch.int64}


def test_a_row_of_padding():
    row = build_row([], 4)
    assert row.spans == (TreeSpan(0, 4),)
    assert [len(values) for values in (row.predictor_T, row.target_T, row.completion_T, row.prompt_N)] == [0] * 4
    assert row.predictor_T.dtype == torch.int64


def test_a_row_that_is_too_short_is_refused():
    trees = random_trees([2])
    with pytest.raises(ValueError, match=f"cannot hold trees of {trees[0].num_tokens} tokens"):
        build_row(place(trees), trees[0].num_tokens - 1)
