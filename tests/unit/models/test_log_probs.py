# SPDX-License-Identifier: Apache-2.0
"""The log-prob head against torch.log_softmax in float64."""

from __future__ import annotations

import pytest
import torch

from nemo_mcpo.models import log_probs
from nemo_mcpo.models.log_probs import completion_log_probs

NUM_POSITIONS, HIDDEN, PADDED, REAL = 9, 6, 32, 27
PREDICTORS = torch.tensor([3, 4, 3, 5, 6, 7, 3])  # position 3 predicts the first token of three completions
COMPLETIONS = torch.tensor([0, 0, 1, 1, 1, 1, 2])
NUM_TARGETS = torch.tensor([2, 4, 1])
TARGETS = torch.tensor([0, 26, 5, 5, 13, 0, 7])

pytestmark = pytest.mark.usefixtures("one_process")


def inputs(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and output weights; the padding rows of the weights are enormous."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(NUM_POSITIONS, 1, HIDDEN, dtype=torch.float64, generator=generator)
    weight = torch.randn(PADDED, HIDDEN, dtype=torch.float64, generator=generator)
    weight[REAL:] = 100.0
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()


def head(hidden, weight, vocab_size=REAL):
    return completion_log_probs(
        hidden, weight, PREDICTORS, TARGETS, NUM_TARGETS, vocab_size=vocab_size, sequence_parallel=False
    )


def expected_logps(hidden, weight, vocab_size=REAL):
    logits = hidden[:, 0][PREDICTORS] @ weight[:vocab_size].t()
    tokens = logits.log_softmax(-1)[torch.arange(len(TARGETS)), TARGETS]
    return torch.stack([tokens[number == COMPLETIONS].sum() for number in range(3)])


@pytest.mark.parametrize("vocab_size", [REAL, PADDED])
@pytest.mark.parametrize("kept", [0, 1 << 20])
@pytest.mark.parametrize("rows_per_chunk", [1, 2, 3, len(TARGETS) - 1, len(TARGETS), 100])
def test_values_and_gradients(monkeypatch, rows_per_chunk, kept, vocab_size):
    monkeypatch.setattr(log_probs, "FEWEST_POSITIONS", 1)
    monkeypatch.setitem(log_probs.LOGITS_PER_CHUNK, "cpu", rows_per_chunk * PADDED)
    monkeypatch.setitem(log_probs.LOGITS_KEPT, "cpu", kept)
    hidden, weight = inputs()
    factors = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found, expected = head(hidden, weight, vocab_size), expected_logps(hidden, weight, vocab_size)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad((found * factors).sum(), (hidden, weight))
    for gradient, one in zip(
        gradients, torch.autograd.grad((expected * factors).sum(), (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(gradient, one, rtol=0, atol=1e-11)
    assert gradients[1][vocab_size:].count_nonzero() == 0


def test_a_chunk_is_never_empty(monkeypatch):
    monkeypatch.setattr(log_probs, "FEWEST_POSITIONS", 1)
    monkeypatch.setitem(log_probs.LOGITS_PER_CHUNK, "cpu", PADDED // 2)
    hidden, weight = inputs()
    torch.testing.assert_close(head(hidden, weight), expected_logps(hidden, weight), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_gradcheck(monkeypatch, kept):
    monkeypatch.setitem(log_probs.LOGITS_KEPT, "cpu", kept)
    hidden, weight = inputs()
    with torch.no_grad():
        weight[REAL:] = 0.0
    assert torch.autograd.gradcheck(head, (hidden, weight))


def test_extreme_logits():
    hidden, weight = inputs()
    found = head(hidden * 1e4, weight)
    torch.testing.assert_close(found, expected_logps(hidden * 1e4, weight), rtol=1e-12, atol=0)
    assert found.isfinite().all()


def test_bf16_computes_the_softmax_in_float32():
    hidden, weight = inputs(torch.bfloat16)
    found = head(hidden, weight)
    assert found.dtype == torch.float32
    logits = (hidden[:, 0][PREDICTORS] @ weight[:REAL].t()).float()
    tokens = logits.log_softmax(-1)[torch.arange(len(TARGETS)), TARGETS]
    torch.testing.assert_close(found, torch.zeros(3).index_add(0, COMPLETIONS, tokens), rtol=1e-6, atol=0)
    gradients = torch.autograd.grad(found.sum(), (hidden, weight))
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize("num_completions", [0, 2])
def test_a_row_without_targets_keeps_its_graph(num_completions):
    hidden, weight = inputs()
    nothing, none_each = torch.zeros(0, dtype=torch.int64), torch.zeros(num_completions, dtype=torch.int64)
    found = completion_log_probs(hidden, weight, nothing, nothing, none_each, vocab_size=REAL, sequence_parallel=False)
    assert found.tolist() == [0.0] * num_completions
    gradients = torch.autograd.grad(found.sum(), (hidden, weight))
    assert [gradient.count_nonzero().item() for gradient in gradients] == [0, 0]
