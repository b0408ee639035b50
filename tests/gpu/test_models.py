# SPDX-License-Identifier: Apache-2.0
"""The model on a GPU: transformers' log-probs, separate sequences, replays, the head, optimizers, FP8."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks.measure import measure
from nemo_mcpo.models.log_probs import completion_log_probs
from nemo_mcpo.models.optimizer import optimizer_parts
from nemo_mcpo.models.sharded_state import load_sharded_state, save_sharded_state
from tests.support.small_gpt import one_step, parameters_of, small_model, train, trainable_model, transformers_logps
from tests.support.trees import random_trees

TREES = random_trees([4, 3, 5, 2, 4, 1], seed=3, longest=40)
COLUMNS_BM = torch.tensor([[2, 3], [1, -1], [4, 1], [1, -1], [3, 3], [-1, -1]])
NATS_OFF = {"32": 1e-3, "bf16": 0.5}
"""How far the log-prob of a completion of up to 40 tokens may be from transformers' in float32."""
OPTIMIZERS: dict[str, dict[str, object]] = {
    "default": {},
    "moments in bfloat16": {"model__optim__moments_dtype": "bfloat16"},
    "states on the host": {"model__optim__cpu_offload": True},
}


@pytest.fixture(params=NATS_OFF)
def precision(request) -> str:
    return request.param


def test_equal_to_transformers(device, llama_directory, precision):
    ours = small_model(llama_directory, trainer__precision=precision).log_probs(TREES)
    for row, expected in enumerate(transformers_logps(llama_directory, TREES)):
        assert ours[row, : len(expected)].tolist() == pytest.approx(expected, abs=NATS_OFF[precision])


def test_trees_equal_separate_sequences(device, llama_directory, precision):
    model = small_model(llama_directory, trainer__precision=precision)
    packed, separate = model.log_probs(TREES), model.log_probs(TREES, share_prompts=False)
    torch.testing.assert_close(packed, separate, rtol=0, atol=NATS_OFF[precision])


@pytest.mark.parametrize("recompute", [None, "selective", "full"])
def test_replayed_scoring_equals_two_passes(device, llama_directory, recompute):
    _, losses, gradients = one_step(llama_directory, TREES, COLUMNS_BM, model__mcpo__reuse_scoring=False)
    changes = {"model__activations_checkpoint_granularity": recompute, "model__mcpo__reuse_scoring": True}
    _, found_losses, found = one_step(llama_directory, TREES, COLUMNS_BM, **changes)
    torch.testing.assert_close(found_losses, losses, rtol=1e-4, atol=1e-4)
    scale = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_at_a_large_vocabulary(device, dtype):
    """It equals float64, and does not hold logits of the whole row in memory."""
    positions, vocabulary, hidden_size = (2048, 128256, 256) if device.type == "cuda" else (64, 4096, 32)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, 1, hidden_size, generator=generator).to(device, dtype).requires_grad_()
    weight = torch.randn(vocabulary, hidden_size, generator=generator).mul_(0.05).to(device, dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (positions,), generator=generator).to(device)
    places = torch.arange(positions, device=device)
    one_each = torch.ones_like(places)

    def head() -> torch.Tensor:
        return completion_log_probs(
            hidden, weight, places, targets, one_each, vocab_size=vocabulary, sequence_parallel=False
        )

    logps = head()
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    expected = (exact[0][:, 0] @ exact[1].t()).log_softmax(-1)[places, targets]
    of_values, of_gradients = (1e-4, 1e-4) if dtype == torch.float32 else (0.05, 0.05)
    torch.testing.assert_close(logps.double(), expected, rtol=0, atol=of_values)
    gradients = torch.autograd.grad(expected.sum(), exact)
    measured = measure(lambda: logps.sum().backward())
    for found, wanted in zip((hidden.grad, weight.grad), gradients, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=of_gradients)
    if device.type == "cuda":
        del exact, expected, gradients
        before = torch.cuda.memory_allocated()
        measured = measure(lambda: head().sum().backward())
        # A chunk of logits in float32 and in the model's dtype, and the weight gradient in both.
        assert measured.peak_bytes - before < 6 * (1 << 27) + 8 * weight.numel() + 0.1e9


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_a_checkpoint_continues(device, llama_directory, precision, optim, tmp_path):
    changes = {"model__optim__lr": 1e-3, "trainer__precision": precision, **OPTIMIZERS[optim]}
    model = trainable_model(llama_directory, **changes)
    losses_of(model, 2)
    save_sharded_state(model, tmp_path)
    saved, following = copy.deepcopy(parameters_of(model)), losses_of(model, 3)
    loaded = trainable_model(llama_directory, **changes)
    load_sharded_state(loaded, tmp_path)
    loaded.schedule.step(increment=2)
    for name, value in parameters_of(loaded).items():
        assert torch.equal(value, saved[name]), name
    torch.testing.assert_close(losses_of(loaded, 3), following, rtol=1e-4, atol=1e-4)


def losses_of(model, steps: int) -> torch.Tensor:
    """Train on the same trees and return the losses ``[steps, B]``."""
    return torch.tensor([losses for losses, _ in train(model, TREES, steps)])


def test_states_on_the_host_change_nothing_else(device, llama_directory, precision):
    changes = {"model__optim__lr": 1e-3, "trainer__precision": precision}
    found = trainable_model(llama_directory, **changes, **OPTIMIZERS["states on the host"])
    expected = losses_of(trainable_model(llama_directory, **changes), 4)
    torch.testing.assert_close(losses_of(found, 4), expected, rtol=1e-4, atol=1e-4)
    for part in optimizer_parts(found.optimizer):
        for parameter, state in part.optimizer.state.items():
            assert parameter.device.type == device.type
            for name in ("exp_avg", "exp_avg_sq", *(["master_param"] if precision == "bf16" else [])):
                assert state[name].device.type == "cpu" and state[name].is_pinned() == (device.type == "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ["tensorwise", "blockwise"])
def test_fp8_is_near_bf16(one_process, tmp_path, recipe):
    pytest.importorskip("transformer_engine.pytorch", reason="no Transformer Engine here")
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no FP8")
    from tests.support.models import save_model

    save_model(tmp_path, "llama", hidden_size=256, intermediate_size=512)
    changes = {"trainer__precision": "bf16", "model__transformer_impl": "transformer_engine"}
    exact = small_model(tmp_path, **changes).log_probs(TREES)
    found = small_model(tmp_path, model__fp8="hybrid", model__fp8_recipe=recipe, **changes).log_probs(TREES)
    lengths = torch.tensor([[len(c) for c in tree.completions] + [1] * (5 - len(tree.completions)) for tree in TREES])
    assert found.isfinite().all()
    assert ((found - exact).abs() / lengths.to(found)).max() < 0.3
