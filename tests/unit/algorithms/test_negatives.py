# SPDX-License-Identifier: Apache-2.0
"""From scored trees to a training batch."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nemo_mcpo.algorithms.negatives import (
    Drawn,
    NegativeSampling,
    NotFiniteError,
    ReferencedTrees,
    draw,
    keep_all,
    kernel_metrics,
    padded_table,
    prune,
    valid_columns,
)
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.records import PromptTree
from nemo_mcpo.sampling import SAMPLERS
from tests.support.configs import checked
from tests.support.trees import random_trees
from tests.unit.sampling.frequencies import assert_frequencies

TREES = random_trees([4, 2, 1, 6], seed=17)
REFERENCE = torch.arange(4 * 6, dtype=torch.float32).reshape(4, 6) * -1.5


def sampling(**mcpo: object) -> NegativeSampling:
    return NegativeSampling.from_config(checked({f"model.mcpo.{key}": value for key, value in mcpo.items()}).model)


def drawn(chosen: NegativeSampling, trees: list[PromptTree], epochs: list[int], rewards: torch.Tensor) -> Drawn:
    return draw(chosen, trees, epochs, ref_logps_bK=torch.zeros_like(rewards), logps_bK=rewards)


def test_tables():
    assert padded_table([[1.0, 2.0], [3.0]]).tolist() == [[1.0, 2.0], [3.0, 0.0]]
    assert padded_table([[1.0]], 3, padding=9.0).tolist() == [[1.0, 9.0, 9.0]]
    assert padded_table([np.array([0.5]), torch.tensor([0.25])]).tolist() == [[0.5], [0.25]]
    assert padded_table([[]], 2).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("first", [0, 1])
def test_valid_columns(first):
    expected = [[first <= column < len(tree.completions) for column in range(6)] for tree in TREES]
    assert valid_columns(TREES, first).tolist() == expected


def test_prune_keeps_the_preferred_and_the_drawn():
    columns = torch.tensor([[3, 1], [1, -1], [-1, -1], [5, 2]])
    batch = prune(TREES, columns, REFERENCE)
    kept = [[0, 3, 1], [0, 1], [0], [0, 5, 2]]
    for row, (tree, pruned, columns_of_row) in enumerate(zip(TREES, batch.trees, kept, strict=True)):
        count = len(columns_of_row)
        assert (pruned.prompt_id, pruned.index) == (tree.prompt_id, tree.index)
        assert pruned.prompt_tokens is tree.prompt_tokens
        assert [c.tolist() for c in pruned.completions] == [tree.completions[k].tolist() for k in columns_of_row]
        assert batch.ref_logps_BK[row, :count].tolist() == REFERENCE[row, columns_of_row].tolist()
        assert batch.ref_logps_BK[row, count:].tolist() == [0.0] * (3 - count)
        assert batch.lengths_BK[row, :count].tolist() == [float(len(c)) for c in pruned.completions]
        assert batch.lengths_BK[row, count:].tolist() == [1.0] * (3 - count)
        assert batch.valid_BK[row].tolist() == [True] * count + [False] * (3 - count)
    assert batch.valid_BK.dtype == torch.bool


def test_prune_keeps_scores_and_ranks_beside_their_completions():
    scored = [replace(tree, scores=np.arange(len(tree.completions), 0, -1, dtype=np.float32)) for tree in TREES[:2]]
    batch = prune([*scored, TREES[2]], torch.tensor([[3, 1], [1, -1], [-1, -1]]), REFERENCE[:3])
    expected = torch.tensor([[4.0, 1.0, 3.0], [2.0, 1.0, math.nan], [math.nan] * 3])
    torch.testing.assert_close(batch.scores_BK, expected, rtol=0, atol=0, equal_nan=True)
    assert batch.ranks_BK.tolist() == [[0, 3, 1], [0, 1, 0], [0, 0, 0]]


def test_prune_may_draw_a_column_twice():
    batch = prune(TREES[:1], torch.tensor([[2, 2]]), REFERENCE[:1])
    assert [c.tolist() for c in batch.trees[0].completions[1:]] == [TREES[0].completions[2].tolist()] * 2


def test_without_negatives_only_the_preferred_is_left():
    batch = prune(TREES, torch.zeros(4, 0, dtype=torch.int64), REFERENCE)
    assert batch.valid_BK.tolist() == [[True]] * 4
    assert [len(tree.completions) for tree in batch.trees] == [1] * 4


def test_keep_all_keeps_every_completion_in_order():
    batch = keep_all(TREES, REFERENCE)
    assert batch.columns == tuple(tuple(range(len(tree.completions))) for tree in TREES)
    assert torch.equal(batch.valid_BK, valid_columns(TREES, first=0))
    assert torch.equal(batch.ref_logps_BK, REFERENCE.where(batch.valid_BK, 0))


def test_too_few_candidates_leave_slots_empty():
    columns = drawn(sampling(num_negatives=3), TREES, [0] * 4, torch.zeros(4, 6)).columns_bM
    filled = [min(3, len(tree.completions) - 1) for tree in TREES]
    assert (columns >= 0).sum(1).tolist() == filled
    for row, count in enumerate(filled):
        assert len(set(columns[row, :count].tolist())) == count
        assert columns[row, count:].tolist() == [-1] * (3 - count)
        assert all(1 <= column < len(TREES[row].completions) for column in columns[row, :count].tolist())


@pytest.mark.parametrize("include_preferred", [False, True])
def test_the_kernel_is_over_the_candidates(include_preferred):
    beta, rewards = 0.5, torch.linspace(-3, 3, 24).reshape(4, 6)
    chosen = sampling(include_preferred=include_preferred, beta=beta)
    log_weights = drawn(chosen, TREES, [0] * 4, rewards).log_weights_bK
    first = 0 if include_preferred else 1
    for row, tree in enumerate(TREES):
        columns = range(first, len(tree.completions))
        total = sum(math.exp(beta * rewards[row, column].item()) for column in columns)
        for column in range(6):
            weight = math.exp(beta * rewards[row, column].item()) / total if column in columns else 0.0
            assert log_weights[row, column].exp().item() == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("num_negatives", [1, 3])
def test_a_draw_does_not_depend_on_the_batch(sampler, num_negatives):
    chosen = sampling(sampler=sampler, num_negatives=num_negatives)
    rewards = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))

    def columns(rows: list[int], width: int) -> dict[int, list[int]]:
        found = drawn(chosen, [TREES[row] for row in rows], [row % 2 for row in rows], rewards[rows, :width])
        return dict(zip(rows, found.columns_bM.tolist(), strict=True))

    expected = columns([0, 1, 2, 3], 6)
    assert columns([3, 1, 0, 2], 6) == expected
    assert columns([0], 4) == {0: expected[0]}
    assert columns([2, 1], 2) == {row: expected[row] for row in (2, 1)}


def test_each_epoch_draws_differently():
    trees = random_trees([8] * 20, seed=3)

    def columns(epochs: list[int]) -> torch.Tensor:
        return drawn(sampling(), trees, epochs, torch.zeros(20, 8)).columns_bM

    first, again, second = (columns([epoch] * 20) for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(columns([0] * 10 + [1] * 10), torch.cat([first[:10], second[10:]]))


def test_another_seed_draws_differently():
    trees = random_trees([8] * 20, seed=3)
    columns = []
    for seed in (1, 2):
        chosen = NegativeSampling.from_config(checked({"model.seed": seed}).model)
        columns.append(drawn(chosen, trees, [0] * 20, torch.zeros(20, 8)).columns_bM)
    assert not torch.equal(*columns)


def test_scored_candidates_are_drawn_anew_at_each_visit():
    chosen, tree = sampling(scored_candidates=2), TREES[3]
    kept = [chosen.propose(tree, epoch) for epoch in range(80)]
    assert {one.ranks for one in kept} == {(0, *pair) for pair in itertools.combinations(range(1, 6), 2)}
    for one in kept:
        assert all(mine is tree.completions[rank] for mine, rank in zip(one.completions, one.ranks, strict=True))
        assert (one.prompt_id, one.index) == (tree.prompt_id, tree.index)
    assert [chosen.propose(short, 0) is short for short in TREES] == [False, True, True, False]


@pytest.mark.parametrize("include_preferred", [False, True])
def test_the_draw_averages_the_kernel_over_subsets(include_preferred):
    """By enumeration: the probability of each candidate is the mean over the subsets of its weight in each."""
    [tree] = random_trees([5], seed=3)
    beta, rewards = 0.5, torch.tensor([1.0, -3.0, 0.0, 2.0, 4.0])
    weights = (beta * rewards).exp().tolist()
    expected = dict.fromkeys(range(5), 0.0)
    subsets = list(itertools.combinations(range(1, 5), 2))
    for subset in subsets:
        pool = (0, *subset) if include_preferred else subset
        for column in pool:
            expected[column] += weights[column] / sum(weights[n] for n in pool) / len(subsets)
    chosen = sampling(scored_candidates=2, beta=beta, include_preferred=include_preferred)
    epochs = list(range(20_000))
    proposed = [chosen.propose(tree, epoch) for epoch in epochs]
    found = drawn(chosen, proposed, epochs, torch.stack([rewards[list(one.ranks)] for one in proposed]))
    assert_frequencies(found.batch.ranks_BK[:, 1:], {(column,): p for column, p in expected.items() if p})


def test_references_and_scores_follow_the_kept_columns():
    scored = replace(TREES[3], scores=np.arange(6, 0, -1, dtype=np.float32))
    source = ReferencedTrees(TREES, {scored.index: np.arange(6, dtype=np.float32)})
    kept = scored.keep([0, 4, 2])
    batch = prune([kept], torch.tensor([[2]]), source.ref_logps_BK([kept]))
    assert (batch.ref_logps_BK.tolist(), batch.scores_BK.tolist()) == ([[0.0, 2.0]], [[6.0, 4.0]])
    assert (batch.ranks_BK.tolist(), batch.columns) == ([[0, 2]], ((0, 2),))


def test_which_samplers_are_scored():
    assert {name for name in SAMPLERS if not sampling(sampler=name).reads_weights} == {"random", "given"}
    sft = NegativeSampling.from_config(checked({"model.mcpo.objective": "sft", "model.mcpo.num_negatives": 0}).model)
    assert sft.reads_weights is False


def test_a_setting_without_effect_is_refused():
    with pytest.raises(ConfigError, match="replacement"):
        sampling(sampler="max", replacement=True)


def test_kernel_metrics():
    weights = torch.tensor([[0.0, 0.5, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    metrics = kernel_metrics(weights.log())
    assert metrics["kernel/ess"][:2].tolist() == pytest.approx([1 / (0.5**2 + 2 * 0.25**2), 1.0])
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert metrics["kernel/entropy"][:2].tolist() == pytest.approx([entropy, 0.0])
    assert all(math.isnan(values[2].item()) for values in metrics.values())


def test_what_is_not_finite_is_named_by_prompt_and_source():
    dataset = SimpleNamespace(source=lambda index: f"data.jsonl:{index + 1}")
    trees = ReferencedTrees(dataset, None)
    trees.check_finite(torch.zeros(4), TREES, "the loss at step 7")
    with pytest.raises(NotFiniteError, match="the loss at step 7") as caught:
        trees.check_finite(torch.tensor([0.0, math.nan, 1.0, math.inf]), TREES, "the loss at step 7")
    named = f"{TREES[1].prompt_id} (data.jsonl:2), {TREES[3].prompt_id} (data.jsonl:4)"
    assert caught.value.where == f"2 of 4 prompts: {named}" and math.isnan(caught.value.got)
    assert caught.value.fix.startswith("lower model.optim.lr")


def test_without_a_reference_its_log_probs_are_zero():
    table = ReferencedTrees(SimpleNamespace(), None).ref_logps_BK(TREES)
    assert table.tolist() == [[0.0] * 6] * 4
