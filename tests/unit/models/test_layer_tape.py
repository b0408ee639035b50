# SPDX-License-Identifier: Apache-2.0
"""Row-selected recompute: the same losses and gradients as two passes, with no layer run forward twice."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from nemo_mcpo.algorithms.negatives import padded_table, prune
from nemo_mcpo.models.layer_tape import Recording, Replay, TapedTransformerLayer
from nemo_mcpo.models.optimizer import finish_gradients
from tests.support.small_gpt import trainable_model
from tests.support.trees import random_trees

TREES = random_trees([4, 3, 5, 2, 4, 1], seed=3)
COLUMNS_BM = torch.tensor([[2, 3], [1, -1], [4, 1], [1, -1], [3, 3], [-1, -1]])

pytestmark = pytest.mark.usefixtures("one_process")


def step(directory, **changes):
    """One step as the trainer takes it: scores, losses and gradients."""
    changes = {"model__activations_checkpoint_granularity": "full"} | changes
    model = trainable_model(directory, **changes)
    model.prepare_for_training_step()
    scores, losses = [], []
    for part in model.parts(TREES):
        trees = [TREES[row] for row in part]
        scores.append(model.score_candidates(trees, first_column=1)[:, 1:])
        references = padded_table([[-20.0] * len(tree.completions) for tree in trees])
        loss_B, _ = model.get_loss_and_metrics(prune(trees, COLUMNS_BM[part], references))
        losses.append(loss_B)
    finish_gradients(model.wrapped, len(TREES))
    gradients = {name: p.main_grad.clone() for name, p in model.chunks[0].named_parameters()}
    scores_BK = padded_table(
        [
            row[: len(t.completions) - 1]
            for row, t in zip((row for table in scores for row in table), TREES, strict=True)
        ],
        num_columns=5,
    )
    return scores_BK, torch.cat(losses), gradients


@pytest.mark.parametrize("micro_batch_tokens", [20, 2048])
@pytest.mark.parametrize("scoring_tokens", [1, 60, 8192])
def test_equal_to_two_passes(llama_directory, scoring_tokens, micro_batch_tokens):
    budgets = {"model__mcpo__scoring_tokens": scoring_tokens, "model__micro_batch_tokens": micro_batch_tokens}
    scores, losses, gradients = step(llama_directory, model__mcpo__reuse_scoring=False)
    found_scores, found_losses, found = step(llama_directory, model__mcpo__reuse_scoring=True, **budgets)
    torch.testing.assert_close(found_scores, scores, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found_losses, losses, rtol=1e-6, atol=1e-6)
    scale = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-5, atol=1e-6 * scale)


def test_layers_run_forward_once_and_again_with_gradient_for_what_is_kept(llama_directory, monkeypatch):
    tokens: dict[bool, list[int]] = {False: [], True: []}
    compute = TapedTransformerLayer.__mro__[1].forward

    def counted(self, *args, **kwargs):
        tokens[torch.is_grad_enabled()].append(kwargs["hidden_states"].shape[0])
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(TapedTransformerLayer.__mro__[1], "forward", counted)
    step(llama_directory)
    num_layers = len(tokens[True])
    whole = sum(tree.num_tokens for tree in TREES)
    kept = sum(tree.num_tokens for tree in prune(TREES, COLUMNS_BM, torch.zeros(6, 5)).trees)
    assert tokens[False] == [whole] * num_layers
    assert tokens[True] == [kept] * num_layers


def test_parts_follow_the_memory_that_recordings_may_take(llama_directory):
    sizes = [tree.num_tokens for tree in TREES]
    for room in (1, max(sizes), sum(sizes[:3]), sum(sizes)):
        changes = {"model__activations_checkpoint_granularity": "full", "model__mcpo__scoring_tokens": room}
        parts = trainable_model(llama_directory, **changes).parts(TREES)
        assert [row for part in parts for row in part] == list(range(len(TREES)))
        assert all(len(part) == 1 or sum(sizes[row] for row in part) <= room for part in parts)
        for part, following in pairwise(parts):
            assert sum(sizes[row] for row in part) + sizes[following[0]] > room
    assert trainable_model(llama_directory, model__mcpo__scoring_tokens=1).parts(TREES) == [range(len(TREES))]


@pytest.mark.parametrize(
    ("requested", "recompute", "expected"),
    [("auto", "full", True), ("auto", "selective", False), ("auto", None, False), (False, "full", False)],
)
def test_when_scoring_is_reused(llama_directory, requested, recompute, expected):
    changes = {"model__activations_checkpoint_granularity": recompute, "model__mcpo__reuse_scoring": requested}
    assert trainable_model(llama_directory, **changes).reuses_scoring is expected


def test_a_replay_computes_nothing():
    recording = Recording()
    output = torch.randn(5, 1, 2)
    assert recording.run(3, lambda: output) is output
    replay = Replay(recording, torch.tensor([4, 0]), sequence_parallel=False)
    assert torch.equal(replay.run(3, lambda: pytest.fail("computed")), output[[4, 0]])
