# SPDX-License-Identifier: Apache-2.0
"""Replay: the same losses and gradients as two passes, without running a layer or product forward twice."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nemo_mcpo.algorithms.negatives import prune
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.models.gpt import ParallelLayout
from nemo_mcpo.models.megatron_gpt_mcpo_model import scoring_recording
from nemo_mcpo.models.replay import LayerRecording, ProductRecording, TapedTransformerLayer
from tests.support.small_gpt import MCPO, one_step, trainable_model
from tests.support.trees import random_trees

TREES = random_trees([4, 3, 5, 2, 4, 1], seed=3)
COLUMNS_BM = torch.tensor([[2, 3], [1, -1], [4, 1], [1, -1], [3, 3], [-1, -1]])

pytestmark = pytest.mark.usefixtures("one_process")


RECOMPUTE = "model__activations_checkpoint_granularity"


@pytest.mark.parametrize("micro_batch_tokens", [20, 2048])
@pytest.mark.parametrize("scoring_tokens", [1, 60, 8192])
@pytest.mark.parametrize("recompute", [None, "selective", "full"])
def test_equal_to_two_passes(llama_directory, recompute, scoring_tokens, micro_batch_tokens):
    budgets = {"model__mcpo__scoring_tokens": scoring_tokens, "model__micro_batch_tokens": micro_batch_tokens}
    scores, losses, gradients = one_step(llama_directory, TREES, COLUMNS_BM, model__mcpo__reuse_scoring=False)
    budgets |= {"model__mcpo__reuse_scoring": True, RECOMPUTE: recompute}
    found_scores, found_losses, found = one_step(llama_directory, TREES, COLUMNS_BM, **budgets)
    torch.testing.assert_close(found_scores, scores, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found_losses, losses, rtol=1e-6, atol=1e-6)
    scale = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-5, atol=1e-6 * scale)


def test_layers_run_once_for_scoring_and_once_with_gradient_for_kept_tokens(llama_directory, monkeypatch):
    tokens: dict[bool, list[int]] = {False: [], True: []}
    compute = TapedTransformerLayer.__mro__[1].forward

    def counted(self, *args, **kwargs):
        tokens[torch.is_grad_enabled()].append(kwargs["hidden_states"].shape[0])
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(TapedTransformerLayer.__mro__[1], "forward", counted)
    one_step(llama_directory, TREES, COLUMNS_BM, **{RECOMPUTE: "full"})
    num_layers = len(tokens[True])
    whole = sum(tree.num_tokens for tree in TREES)
    kept = sum(tree.num_tokens for tree in prune(TREES, COLUMNS_BM, torch.zeros(6, 5)).trees)
    assert tokens[False] == [whole] * num_layers
    assert tokens[True] == [kept] * num_layers


def products(directory, **changes) -> int:
    """Return the floating-point operations of all matrix products of a step."""
    with FlopCounterMode(display=False) as counter:
        one_step(directory, TREES, COLUMNS_BM, **changes)
    return counter.get_flop_counts()["Global"][torch.ops.aten.mm]


def test_products_run_forward_once(llama_directory):
    two_passes = products(llama_directory, model__mcpo__reuse_scoring=False)
    saved = two_passes - products(llama_directory)
    a = trainable_model(llama_directory).architecture
    heads = 2 * a.hidden_size * a.head_dim * (a.num_attention_heads + a.num_query_groups)
    of_layers = 2 * a.num_layers * (heads + 3 * a.hidden_size * a.ffn_hidden_size)
    pruned = prune(TREES, COLUMNS_BM, torch.zeros(6, 5)).trees
    preferred = sum(len(tree.completions[0]) for tree in TREES)
    unscored = preferred + sum(len(tree.prompt_tokens) for tree in TREES if len(tree.completions) == 1)
    # Trained tokens run through the layers once less, but recording also runs the preferred completions.
    assert saved == of_layers * (sum(tree.num_tokens for tree in pruned) - unscored)


@pytest.mark.parametrize(
    ("recompute", "key"), [("full", "model__mcpo__scoring_tokens"), (None, "model__micro_batch_tokens")]
)
def test_parts_follow_the_memory_that_recordings_may_take(llama_directory, recompute, key):
    sizes = [tree.num_tokens for tree in TREES]
    for room in (1, max(sizes), sum(sizes[:3]), sum(sizes)):
        parts = trainable_model(llama_directory, **{RECOMPUTE: recompute, key: room}).parts(TREES)
        assert sorted(row for part in parts for row in part) == list(range(len(TREES)))
        assert all(len(part) == 1 or sum(sizes[row] for row in part) <= room for part in parts)
        if room == 1:
            assert len(parts) == len(TREES)
        else:  # first fit decreasing
            assert len(parts) <= 11 / 9 * -(-sum(sizes) // room) + 6 / 9
    two_passes = {"model__mcpo__reuse_scoring": False, key: 1}
    assert trainable_model(llama_directory, **two_passes).parts(TREES) == [list(range(len(TREES)))]


def test_other_prompts_than_the_scored_ones_are_refused(llama_directory):
    model = trainable_model(llama_directory)
    batch = prune(TREES[:2], COLUMNS_BM[:2], torch.zeros(2, 5))
    model.prepare_for_training_step()
    scored = model.score(TREES[2:4], first_column=1)
    with pytest.raises(ValueError, match="not pruned from the scored trees"):
        model.get_loss_and_metrics(batch, MCPO, scored)
    assert model.get_loss_and_metrics(batch, MCPO)[0].isfinite().all()


@pytest.mark.parametrize(
    ("requested", "layout", "expected"),
    [
        ("auto", {"recompute": "full"}, LayerRecording),
        ("auto", {"recompute": "full", "transformer_impl": "transformer_engine"}, LayerRecording),
        ("auto", {"recompute": "full", "transformer_impl": "transformer_engine", "fp8": "hybrid"}, None),
        ("auto", {"recompute": "selective"}, ProductRecording),
        ("auto", {}, ProductRecording),
        ("auto", {"transformer_impl": "transformer_engine"}, None),
        (True, {}, ProductRecording),
        ("auto", {"recompute": "full", "transformer_impl": "transformer_engine", "scoring_fp8": True}, None),
        (False, {"recompute": "full"}, None),
    ],
)
def test_what_is_recorded(requested, layout, expected):
    make = scoring_recording(requested, ParallelLayout(**layout))
    assert make is None if expected is None else isinstance(make(), expected)


def test_products_are_copied_if_ranks_sum_them_in_place():
    copies = [
        scoring_recording("auto", ParallelLayout(tensor=tensor, sequence_parallel=sequence))().copies
        for tensor, sequence in ((1, False), (2, False), (2, True))
    ]
    assert copies == [False, True, False]
    recording = ProductRecording(copies=True)
    recording.run_layer(1, lambda: torch.matmul(torch.ones(2, 1), torch.ones(1, 1)).mul_(2))
    replay = recording.replay(torch.tensor([0]), sequence_parallel=False)
    assert replay.run_layer(1, lambda: torch.matmul(torch.zeros(1, 1), torch.ones(1, 1))).tolist() == [[1.0]]


@pytest.mark.parametrize("layout", [{}, {"recompute": "selective"}, {"recompute": "full", "fp8": "hybrid"}])
def test_impossible_reuse_is_refused(layout):
    with pytest.raises(ConfigError, match=r"model\.mcpo\.reuse_scoring.*full"):
        scoring_recording(True, ParallelLayout(transformer_impl="transformer_engine", **layout))


def test_a_replay_of_layers_computes_only_with_gradient():
    recording = LayerRecording()
    output = torch.randn(5, 1, 2)
    assert recording.run_layer(3, lambda: output) is output
    replay = recording.replay(torch.tensor([4, 0]), sequence_parallel=False)
    with torch.no_grad():
        assert torch.equal(replay.run_layer(3, lambda: pytest.fail("computed")), output[[4, 0]])
    assert replay.run_layer(3, lambda: "computed") == "computed"


def test_a_replay_of_products_reads_them_in_order():
    recording = ProductRecording()
    left, right = torch.randn(5, 3), torch.randn(3, 3)
    output = recording.run_layer(1, lambda: torch.matmul(torch.matmul(left, right).relu(), right))
    replay = recording.replay(torch.tensor([4, 0]), sequence_parallel=False)
    zeros = torch.zeros(2, 3)
    assert torch.equal(
        replay.run_layer(1, lambda: torch.matmul(torch.matmul(zeros, right).relu(), right)), output[[4, 0]]
    )
    assert torch.equal(torch.matmul(zeros, right), zeros)
