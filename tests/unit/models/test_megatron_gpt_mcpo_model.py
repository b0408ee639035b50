# SPDX-License-Identifier: Apache-2.0
"""The NeMo model: what a trainer calls, in fp32 and bf16."""

from __future__ import annotations

import inspect
import json
import math

import pytest
import torch

from nemo_mcpo.models.interface import SupportsPreferenceTraining
from nemo_mcpo.models.megatron_gpt_mcpo_model import MegatronGPTMCPOModel
from nemo_mcpo.objectives import OBJECTIVES
from tests.support.small_gpt import BETA, MCPO, small_model, trainable_model
from tests.support.trees import preference_batch, random_trees

TREES = random_trees([3, 2, 4], seed=11)

pytestmark = pytest.mark.usefixtures("one_process")


def step(model, batch, objective=MCPO) -> tuple[torch.Tensor, dict[str, torch.Tensor], float]:
    model.prepare_for_training_step()
    loss, metrics = model.get_loss_and_metrics(batch, objective)
    _, grad_norm = model.finish_training_step(len(batch.trees))
    return loss, metrics, grad_norm


def test_it_has_the_methods_of_the_interface():
    methods = [name for name, _ in inspect.getmembers(SupportsPreferenceTraining, inspect.isfunction)]
    public = [name for name in methods if not name.startswith("_")]
    assert len(public) == 12
    for name in public:
        theirs, ours = (getattr(owner, name) for owner in (SupportsPreferenceTraining, MegatronGPTMCPOModel))
        # The model may take more, by keyword.
        assert inspect.signature(theirs).parameters.keys() <= inspect.signature(ours).parameters.keys()


@pytest.mark.parametrize(("precision", "tolerance"), [("32", 1e-5), ("bf16", 1e-5)])
def test_at_the_first_step_every_reward_is_zero(llama_directory, precision, tolerance):
    """The reference is scored before the optimizer exists, training after it: both must be the same computation."""
    reference = small_model(llama_directory, trainer__precision=precision).log_probs(TREES).tolist()
    model = trainable_model(llama_directory, trainer__precision=precision)
    torch.testing.assert_close(model.log_probs(TREES), torch.tensor(reference), rtol=0, atol=tolerance)
    loss, metrics, grad_norm = step(model, preference_batch(TREES, reference))
    expected = [math.log(len(tree.completions)) for tree in TREES]
    assert loss.tolist() == pytest.approx(expected, abs=BETA * tolerance * 2)
    assert metrics["rewards/chosen"].tolist() == pytest.approx([0.0] * 3, abs=tolerance)
    assert metrics["rewards/rejected"].tolist() == pytest.approx([0.0] * 3, abs=tolerance)
    assert math.isfinite(grad_norm) and grad_norm > 0


def test_bf16_takes_the_step_of_fp32(llama_directory):
    found = {}
    for precision in ("32", "bf16"):
        model = trainable_model(llama_directory, trainer__precision=precision, model__optim__lr=1e-2)
        before = model.log_probs(TREES)
        batch = preference_batch(TREES, before.tolist())
        step(model, batch)
        loss, _, grad_norm = step(model, batch)
        found[precision] = loss.mean().item(), grad_norm
    assert {p.dtype for p in model.chunks[0].parameters()} == {torch.bfloat16}
    assert found["bf16"][0] == pytest.approx(found["32"][0], abs=0.05)
    assert found["bf16"][0] < math.log(3)
    states = [state for part in model.optimizer.chained_optimizers for state in part.optimizer.state.values()]
    assert {value.dtype for state in states for name, value in state.items() if name != "step"} == {torch.float32}


def test_a_step_lowers_the_loss(llama_directory):
    model = trainable_model(llama_directory, model__optim__lr=1e-3)
    batch = preference_batch(TREES, model.log_probs(TREES).tolist())
    losses = [step(model, batch)[0].mean().item() for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1] + 0.01


def test_sft_learns_the_preferred_answer(llama_directory):
    model = trainable_model(llama_directory, model__optim__lr=1e-3)
    before = model.log_probs(TREES)
    lengths = torch.tensor([len(tree.completions[0]) for tree in TREES])
    loss, metrics, _ = step(model, preference_batch(TREES), OBJECTIVES["sft"])
    torch.testing.assert_close(loss, -before[:, 0] / lengths, rtol=1e-5, atol=1e-5)
    assert metrics["rewards/margin"].isnan().all()
    assert (model.log_probs(TREES)[:, 0] > before[:, 0]).all()


def test_validation_switches_to_evaluation_and_back(llama_directory):
    model = trainable_model(llama_directory)
    model.prepare_for_validation_step()
    assert not any(chunk.training for chunk in model.wrapped)
    model.finish_validation_step()
    assert all(chunk.training for chunk in model.wrapped)


def test_the_schedule_state_is_plain_and_continues(llama_directory):
    sched = {"model__optim__sched__name": "CosineAnnealing", "model__optim__sched__warmup_steps": 2}
    model, other = (trainable_model(llama_directory, **sched) for _ in range(2))
    batch = preference_batch(TREES)
    for _ in range(3):
        step(model, batch)
    state = json.loads(json.dumps(model.schedule_state()))
    other.load_schedule_state(state)
    assert other.schedule_state() == model.schedule_state()
    rates = []
    for one in (model, other):
        one.schedule.step(increment=1)
        rates.append(one.optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1]
