# SPDX-License-Identifier: Apache-2.0
"""Learning rates from their formulas, an update of AdamW computed by hand, and the gradient norm."""

from __future__ import annotations

import math

import pytest
import torch
from megatron.core.optimizer import clip_grads
from megatron.core.utils import local_multi_tensor_l2_norm

from nemo_mcpo.models.optimizer import exact_norm, fuse_torch_adam, install_exact_norm, optimizer_parts
from tests.support.small_gpt import MCPO, parameters_of, trainable_model
from tests.support.trees import preference_batch, random_trees

LR, MIN_LR, WARMUP, STEPS = 1e-3, 1e-4, 3, 10
TREES = random_trees([3, 2], seed=1)

pytestmark = pytest.mark.usefixtures("one_process")


def schedule(name: str, warmup: int = WARMUP, min_lr: float = MIN_LR) -> dict[str, object]:
    return {
        "model__optim__lr": LR,
        "model__optim__sched__name": name,
        "model__optim__sched__warmup_steps": warmup,
        "model__optim__sched__min_lr": min_lr,
    }


def rates(directory, num_steps: int = STEPS, **changes) -> list[float]:
    model = trainable_model(directory, num_steps=num_steps, **changes)
    found = []
    for _ in range(num_steps):
        model.schedule.step(increment=1)
        found.append(model.optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    ("name", "decayed"),
    [
        ("constant", lambda share: LR),
        ("CosineAnnealing", lambda share: MIN_LR + (LR - MIN_LR) * (1 + math.cos(math.pi * share)) / 2),
        ("LinearAnnealing", lambda share: MIN_LR + (LR - MIN_LR) * (1 - share)),
    ],
)
def test_rates(llama_directory, name, decayed):
    # Warm-up reaches the full rate at its last step and never starts at 0; the last step of the run has share 1.
    expected = [LR * step / WARMUP for step in range(1, WARMUP + 1)]
    expected += [decayed((step - WARMUP) / (STEPS - WARMUP)) for step in range(WARMUP + 1, STEPS + 1)]
    assert rates(llama_directory, **schedule(name)) == pytest.approx(expected, rel=1e-12)


def test_inverse_square_root(llama_directory):
    expected = [LR * step / WARMUP for step in range(1, WARMUP + 1)]
    expected += [max(MIN_LR, LR * math.sqrt(WARMUP / step)) for step in range(WARMUP + 1, STEPS + 1)]
    assert rates(llama_directory, **schedule("InverseSquareRootAnnealing")) == pytest.approx(expected, rel=1e-12)


def test_without_warm_up_the_first_rate_is_full(llama_directory):
    assert rates(llama_directory, **schedule("constant", warmup=0)) == [LR] * STEPS


def test_a_run_shorter_than_its_warm_up(llama_directory):
    expected = [LR * step / 50 for step in (1, 2)]
    assert rates(llama_directory, num_steps=2, **schedule("CosineAnnealing", warmup=50)) == pytest.approx(expected)


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_one_update_of_adamw(llama_directory, clip):
    decay, eps = 0.1, 1e-3
    model = trainable_model(
        llama_directory,
        **schedule("constant", warmup=0),
        model__optim__weight_decay=decay,
        model__optim__eps=eps,
        trainer__mcpo__gradient_clip_val=clip,
    )
    before = parameters_of(model)
    model.prepare_for_training_step()
    model.get_loss_and_metrics(preference_batch(TREES), MCPO)
    gradients = {name: p.main_grad / len(TREES) for name, p in model.chunks[0].named_parameters()}
    lr, grad_norm = model.finish_training_step(len(TREES))
    norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients.values()))
    assert lr == LR
    assert grad_norm == pytest.approx(norm, rel=1e-5)
    factor = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
    for name, parameter in model.chunks[0].named_parameters():
        # At the first step both corrected moments are powers of the gradient: m̂ = g, v̂ = g².
        gradient = gradients[name] * factor
        decayed = before[name] * (1 - LR * (decay if parameter.dim() > 1 else 0.0))
        expected = decayed - LR * gradient / (gradient.abs() + eps)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)


def test_gradients_are_cleared(llama_directory):
    model = trainable_model(llama_directory)
    norms = []
    for _ in range(2):
        model.prepare_for_training_step()
        model.get_loss_and_metrics(preference_batch(TREES), MCPO)
        norms.append(torch.cat([p.main_grad.flatten() for p in model.chunks[0].parameters()]).norm().item())
    assert norms[0] == norms[1]


def test_fused_adam_makes_the_same_update(llama_directory):
    """A CPU supports it too, but runs do not request it there."""

    def updated(fused: bool) -> dict[str, torch.Tensor]:
        model = trainable_model(llama_directory, model__optim__lr=1e-3)
        if fused:
            fuse_torch_adam(model.optimizer)
        for _ in range(2):
            model.prepare_for_training_step()
            model.get_loss_and_metrics(preference_batch(TREES), MCPO)
            model.finish_training_step(len(TREES))
        groups = [group for part in optimizer_parts(model.optimizer) for group in part.optimizer.param_groups]
        assert all(bool(group["fused"]) == fused for group in groups)
        return parameters_of(model)

    expected = updated(fused=False)
    for name, value in updated(fused=True).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


def test_the_norm_of_one_large_number_and_millions_of_small_ones():
    """In float32, each of their squares would be lost."""
    small, large = torch.full((1 << 22,), 1e-4), torch.tensor([1.0])
    norm, _ = exact_norm(65536, None, [[torch.cat([large, small]), large]], False)
    assert norm.dtype == torch.float32
    assert norm.tolist() == pytest.approx([(2.0 + (1 << 22) * 1e-8) ** 0.5], rel=1e-7)


def test_norms_of_transformer_engine_and_apex_are_kept(monkeypatch):
    for found, expected in ((local_multi_tensor_l2_norm, exact_norm), (torch.norm, torch.norm)):
        monkeypatch.setattr(clip_grads, "l2_norm_impl", found)
        install_exact_norm()
        assert clip_grads.l2_norm_impl is expected


def test_norms_of_single_tensors_are_not_read_on_the_host(monkeypatch):
    monkeypatch.setattr(torch, "tensor", lambda *args, **kwargs: pytest.fail("made of numbers on the host"))
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: pytest.fail("read on the host"))
    norm, _ = exact_norm(65536, None, [[torch.full((4,), 3.0), torch.full((2, 2), 4.0)]])
    assert norm.item() == 10.0
