# SPDX-License-Identifier: Apache-2.0
"""Packing is deterministic, keeps trees whole, and respects the budget; rows agree with a walk over the trees."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from nemo_mcpo.records import TreeSpan
from nemo_mcpo.trees.packing import build_row, pack_into_rows, separate, share_between_ranks
from tests.support.trees import place, random_trees

SIZES = [np.random.default_rng(seed).integers(1, 60, size=40).tolist() for seed in range(5)]


def loads(rows, sizes):
    return [sum(sizes[item] for item in row) for row in rows]


def test_even_rows_by_hand():
    # 18 tokens fit into two rows of 10. Evenly: 6 | 4, then 3 to the second (7), 3 to the first (9), 2 to the second.
    assert pack_into_rows([2, 3, 3, 4, 6], budget=10) == [[2, 4], [0, 1, 3]]


def test_first_fit_if_even_rows_do_not_fit():
    # Evenly: 6 + 3 = 9 and 5 + 4 = 9, which leaves no room for 2. Longest first: 6 + 4 = 10 and 5 + 3 + 2 = 10.
    assert pack_into_rows([2, 3, 4, 5, 6], budget=10) == [[4, 2], [3, 1, 0]]


def test_an_item_above_the_budget_has_its_own_row():
    assert pack_into_rows([3, 20, 3], budget=8) == [[1], [0, 2]]


def test_no_items_make_no_rows():
    assert pack_into_rows([], budget=8) == pack_into_rows([], budget=8, at_least=4) == []


def test_rows_for_a_pipeline():
    assert pack_into_rows([5, 4, 3, 2, 2], budget=100, at_least=3) == [[0], [1, 4], [2, 3]]
    assert pack_into_rows([5, 4], budget=100, at_least=8) == [[0], [1]]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("budget", [1, 40, 100, 10_000])
@pytest.mark.parametrize("at_least", [1, 8])
def test_every_item_once_and_no_row_over_the_budget(sizes, budget, at_least):
    rows = pack_into_rows(sizes, budget, at_least=at_least)
    assert sorted(item for row in rows for item in row) == list(range(len(sizes)))
    assert all(load <= budget or len(row) == 1 for row, load in zip(rows, loads(rows, sizes), strict=True))
    assert rows == pack_into_rows(list(sizes), budget, at_least=at_least)


@pytest.mark.parametrize("sizes", SIZES)
def test_number_of_rows_is_near_the_minimum(sizes):
    # First fit, longest first, needs at most 11/9 of the minimum number of rows plus 6/9 of a row.
    assert len(pack_into_rows(sizes, budget=200)) <= 11 / 9 * -(-sum(sizes) // 200) + 6 / 9


def nectar_shaped(num_prompts: int, seed: int) -> list[int]:
    """Tokens of trees like Nectar's: prompts of about 100 tokens with a long tail, six answers of about 290."""
    random = np.random.default_rng(seed)
    prompts = random.lognormal(4.3, 0.9, num_prompts).clip(8, 2048)
    answers = random.gamma(2.0, 145.0, (num_prompts, 6)).clip(2, 2048).sum(1)
    return (prompts + answers).astype(int).tolist()


@pytest.mark.parametrize("num_replicas", [2, 4, 8])
def test_replicas_get_the_same_work_on_nectar_shaped_data(num_replicas):
    for seed in range(20):
        sizes = nectar_shaped(128, seed)
        tokens = loads(share_between_ranks(sizes, num_replicas), sizes)
        assert max(tokens) <= 1.05 * min(tokens)


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_rows_are_nearly_all_real_tokens_on_nectar_shaped_data(multiple):
    # Sequence parallelism and FP8 round up a row's length; nothing else pads it.
    sizes = nectar_shaped(128, seed=0)
    rows = pack_into_rows(sizes, budget=8192)
    padded = sum(-(-load // multiple) * multiple for load in loads(rows, sizes))
    assert sum(sizes) >= 0.99 * padded


def test_separate_completions_copy_their_prompt():
    placed = place(random_trees([3, 1], seed=1))
    alone = [one for item in placed for one in separate(item)]
    assert [(item.prompt, item.columns) for item in alone] == [(0, (0,)), (0, (1,)), (0, (2,)), (1, (0,))]
    for item in alone:
        tree = placed[item.prompt].tree
        assert item.tree.prompt_tokens is tree.prompt_tokens
        assert len(item.tree.completions) == 1 and item.tree.completions[0] is tree.completions[item.columns[0]]


def test_shares_by_hand():
    # 7 to rank 0, 5 to rank 1, 4 to rank 1 (9), 3 to rank 0 (10), 1 to rank 1 (10).
    assert share_between_ranks([1, 3, 4, 5, 7], 2) == [[1, 4], [0, 2, 3]]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_shares_are_balanced(sizes, num_ranks):
    shares = share_between_ranks(sizes, num_ranks)
    assert sorted(item for share in shares for item in share) == list(range(len(sizes)))
    assert all(share == sorted(share) for share in shares)
    # Each item goes to the rank with the fewest tokens, so no rank is ahead of another by more than one item.
    assert max(loads(shares, sizes)) - min(loads(shares, sizes)) <= max(sizes)
    assert shares == share_between_ranks(list(sizes), num_ranks)


def test_more_ranks_than_items():
    assert share_between_ranks([5, 3], 3) == [[0], [1], []]


@pytest.mark.parametrize("seed", range(5))
def test_row_agrees_with_a_walk_over_the_trees(seed):
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
            expected["prompt_N"].append(item.prompt)
            expected["column_N"].append(column)
            for place_in_completion, token in enumerate(completion.tolist()):
                here = len(expected["tokens_S"])
                is_first = place_in_completion == 0
                last_of_prompt = first_of_tree + len(tree.prompt_tokens) - 1
                expected["predictor_T"].append(last_of_prompt if is_first else here - 1)
                expected["target_T"].append(token)
                expected["tokens_S"].append(token)
                expected["positions_S"].append(len(tree.prompt_tokens) + place_in_completion)
            expected["num_targets_N"].append(len(completion))
            expected["place_N"].append(item.prompt - 10)
            stops.append(len(expected["tokens_S"]))
        expected["prompts_b"].append(item.prompt)
        spans.append(TreeSpan(first_of_tree, prompt_stop, tuple(stops)))
    for name in ("tokens_S", "positions_S"):
        expected[name] += [0] * 3
    assert row.spans == (*spans, TreeSpan(num_tokens, num_tokens + 3))
    assert {name: getattr(row, name).tolist() for name in expected} == expected
    assert {getattr(row, name).dtype for name in expected} == {torch.int64}


def test_a_row_of_padding():
    row = build_row([], 4)
    assert row.spans == (TreeSpan(0, 4),)
    assert [len(values) for values in (row.predictor_T, row.target_T, row.num_targets_N, row.prompts_b)] == [0] * 4
    assert row.predictor_T.dtype == torch.int64


def test_a_row_that_is_too_short_is_refused():
    trees = random_trees([2])
    with pytest.raises(ValueError, match=f"cannot hold trees of {trees[0].num_tokens} tokens"):
        build_row(place(trees), trees[0].num_tokens - 1)


def test_columns_before_the_first_scored_one_have_no_targets():
    placed = place(random_trees([3, 1, 4], seed=2))
    row, scored = build_row(placed, 100), build_row(placed, 100, first_column=1)
    assert torch.equal(scored.tokens_S, row.tokens_S) and scored.spans == row.spans
    targets = zip(row.target_T.split(row.num_targets_N.tolist()), row.column_N.tolist(), strict=True)
    kept = [target for target, column in targets if column >= 1]
    assert len(kept) == 5
    assert torch.equal(scored.target_T, torch.cat(kept)) and len(scored.predictor_T) == len(scored.target_T)
    assert torch.equal(scored.tokens_S[scored.predictor_T[1:]], row.tokens_S[scored.predictor_T[1:]])
    assert scored.num_targets_N.tolist() == [
        0 if column == 0 else count
        for count, column in zip(row.num_targets_N.tolist(), row.column_N.tolist(), strict=True)
    ]


def test_prompts_of_a_row_are_numbered_once():
    trees = random_trees([2, 1, 2], seed=4)
    placed = [item for number in (2, 0) for item in separate(dataclasses.replace(place(trees)[number], prompt=number))]
    row = build_row(placed, 100)
    assert row.prompt_N.tolist() == [2, 2, 0, 0]
    assert row.prompts_b.tolist() == [0, 2] and row.place_N.tolist() == [1, 1, 0, 0]
