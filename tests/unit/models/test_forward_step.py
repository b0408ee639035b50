# SPDX-License-Identifier: Apache-2.0
"""From trees to tables: the same numbers for every packing and order, and gradients of a loss computed by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from nemo_mcpo.models.optimizer import finish_gradients
from nemo_mcpo.records import PromptTree
from tests.support.small_gpt import BETA, MCPO, float64_gpt, separate_logps, small_model, trainable_model
from tests.support.trees import preference_batch, random_trees

TREES = random_trees([3, 2, 4, 2, 3, 5], seed=7)
TWO_PASSES = {"model__mcpo__reuse_scoring": False}
BUDGETS = (1, 30, 100, 100_000)

pytestmark = pytest.mark.usefixtures("one_process")


def budget(tokens: int) -> dict[str, object]:
    return {"model__micro_batch_tokens": tokens}


def references(trees: list[PromptTree]) -> list[list[float]]:
    """Reference log-probs that depend only on a tree's tokens, so that the order of the trees does not matter."""
    return [[-5.0 * len(c) + 0.1 * float(c.sum() % 7) for c in tree.completions] for tree in trees]


def batch_of(trees: list[PromptTree]):
    return preference_batch(trees, references(trees))


def expected_losses(directory) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """log(1 + Σ exp(β (r_i − r_0))) of each tree in float64, and the gradients of its mean over the trees."""
    model = float64_gpt(directory)
    losses = []
    for logps, reference in zip(separate_logps(model, TREES), references(TREES), strict=True):
        rewards = logps - torch.tensor(reference, dtype=torch.float64)
        losses.append(torch.log(1 + torch.exp(BETA * (rewards[1:] - rewards[0])).sum()))
    loss = torch.stack(losses)
    loss.mean().backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def train(directory, trees, **changes):
    model = trainable_model(directory, **changes)
    model.prepare_for_training_step()
    loss, metrics = model.get_loss_and_metrics(batch_of(trees), MCPO)
    finish_gradients(model.wrapped, len(trees))
    return loss, metrics, {name: p.main_grad.clone() for name, p in model.chunks[0].named_parameters()}


def test_scores_are_a_table(llama_directory):
    table = small_model(llama_directory).log_probs(TREES)
    expected = separate_logps(float64_gpt(llama_directory), TREES)
    assert table.shape == (len(TREES), 5) and table.dtype == torch.float32
    assert not table.requires_grad
    for row, (tree, logps) in enumerate(zip(TREES, expected, strict=True)):
        count = len(tree.completions)
        torch.testing.assert_close(table[row, :count].double(), logps.detach(), rtol=1e-5, atol=1e-4)
        assert table[row, count:].tolist() == [0.0] * (5 - count)


@pytest.mark.parametrize("tokens", BUDGETS)
def test_scores_do_not_depend_on_packing(llama_directory, tokens):
    expected = small_model(llama_directory).log_probs(TREES)
    found = small_model(llama_directory, **budget(tokens)).log_probs(TREES)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_scores_without_the_first_column(llama_directory):
    model = small_model(llama_directory, **TWO_PASSES)
    whole, found = model.log_probs(TREES), model.score(TREES, first_column=1).logps_bK
    torch.testing.assert_close(found[:, 1:], whole[:, 1:], rtol=1e-5, atol=1e-5)
    assert found[:, 0].tolist() == [0.0] * len(TREES)


def test_scores_of_plain_sequences(llama_directory):
    model = small_model(llama_directory)
    torch.testing.assert_close(
        model.log_probs(TREES, share_prompts=False), model.log_probs(TREES), rtol=1e-5, atol=1e-5
    )


def test_a_tree_of_one_completion_has_no_candidate_to_score(llama_directory):
    single = dataclasses.replace(TREES[0], completions=TREES[0].completions[:1])
    model = small_model(llama_directory, **TWO_PASSES)
    found = model.score([single, TREES[1]], first_column=1).logps_bK
    assert found[0].tolist() == [0.0, 0.0]
    assert found[1, 1] < 0
    assert model.score([single], first_column=1).logps_bK.tolist() == [[0.0]]


def test_losses_and_gradients_equal_those_computed_by_hand(llama_directory):
    expected, expected_gradients = expected_losses(llama_directory)
    loss, metrics, gradients = train(llama_directory, TREES)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    scale = max(gradient.abs().max().item() for gradient in expected_gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient.double(), expected_gradients[name], rtol=1e-4, atol=1e-5 * scale)
    assert metrics["negatives/count"].tolist() == [len(tree.completions) - 1 for tree in TREES]
    rewards = [
        logps.detach() - torch.tensor(reference, dtype=torch.float64)
        for logps, reference in zip(
            separate_logps(float64_gpt(llama_directory), TREES), references(TREES), strict=True
        )
    ]
    margins = torch.stack([reward[0] - reward[1:].mean() for reward in rewards])
    torch.testing.assert_close(metrics["rewards/margin"].double(), margins, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", BUDGETS)
def test_neither_packing_nor_order_changes_loss_or_gradients(llama_directory, tokens):
    loss, metrics, gradients = train(llama_directory, TREES)
    order = [4, 0, 5, 2, 1, 3]
    other_loss, other_metrics, other_gradients = train(
        llama_directory, [TREES[place] for place in order], **budget(tokens)
    )
    torch.testing.assert_close(other_loss, loss[order], rtol=1e-5, atol=1e-6)
    assert other_metrics.keys() == metrics.keys()
    for name, values in other_metrics.items():
        torch.testing.assert_close(values, metrics[name][order], rtol=1e-4, atol=1e-4)
    scale = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in other_gradients.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-4, atol=1e-5 * scale)


def test_the_gradient_is_divided_by_prompts_and_not_by_rows(llama_directory):
    _, _, gradients = train(llama_directory, TREES, **budget(1))
    _, _, doubled = train(llama_directory, TREES + TREES, **budget(1))
    for name, gradient in doubled.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-4, atol=1e-6)


def test_a_prompt_without_negatives_adds_nothing_but_counts(llama_directory):
    single = dataclasses.replace(TREES[0], completions=TREES[0].completions[:1])
    loss, metrics, gradients = train(llama_directory, [single, TREES[1]])
    alone_loss, _, alone = train(llama_directory, [TREES[1]])
    assert loss[0].item() == 0.0
    assert loss[1].item() == pytest.approx(alone_loss[0].item(), rel=1e-5)
    assert metrics["negatives/none"].tolist() == [1.0, 0.0]
    assert math.isnan(metrics["rewards/margin"][0].item())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, alone[name] / 2, rtol=1e-4, atol=1e-6)
