# SPDX-License-Identifier: Apache-2.0
"""The trainer: what holds at every first step, special cases, and when it writes what."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict

import pytest
import torch

from nemo_mcpo.algorithms.checkpointing import TrainerState
from nemo_mcpo.algorithms.negatives import NotFiniteError, draw
from nemo_mcpo.algorithms.run_data import num_training_steps
from nemo_mcpo.models.rows import Scored
from nemo_mcpo.objectives import OBJECTIVES
from tests.support.configs import checked
from tests.support.probe_objective import probe
from tests.support.small_run import NUM_COMPLETIONS, small_trainer, write_tokens

pytestmark = pytest.mark.usefixtures("one_process")

CHAIN = {"model__mcpo__chain_steps": 3, "model__mcpo__chain_candidates": 2}


def lines(directory, model, **changes) -> list[dict[str, float]]:
    trainer = small_trainer(directory, model, **changes)
    trainer.fit()
    return [{name: value for name, value in line.items() if name != "step_seconds"} for line in trainer.log.lines]


@pytest.mark.parametrize("num_negatives", [1, 3])
@pytest.mark.parametrize("changes", [{}, CHAIN, {"model__mcpo__replacement": True}])
def test_the_first_step(tmp_path, llama_directory, num_negatives, changes):
    changes = changes | {"model__mcpo__num_negatives": num_negatives}
    first, *following = lines(tmp_path, llama_directory, **changes)
    assert first["loss"] == pytest.approx(math.log(1 + num_negatives), abs=1e-5)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margin"):
        assert first[name] == pytest.approx(0.0, abs=1e-4)
    num_candidates = NUM_COMPLETIONS - 1
    assert first["kernel/ess"] == pytest.approx(num_candidates, abs=1e-4)
    assert first["kernel/entropy"] == pytest.approx(math.log(num_candidates), abs=1e-4)
    assert [line["step"] for line in following] == [2, 3]
    assert all(line["loss"] != first["loss"] for line in following)


def test_every_line_has_the_promised_metrics(tmp_path, llama_directory):
    promised = {"step", "loss", "lr", "grad_norm", "consumed_prompts", "step_seconds", "tokens", "rewards/chosen"}
    promised |= {"rewards/rejected", "rewards/accuracy", "rewards/margin", "kernel/ess", "kernel/entropy"}
    trainer = small_trainer(tmp_path, llama_directory)
    trainer.fit()
    assert all(promised <= line.keys() for line in trainer.log.lines)
    assert [line["consumed_prompts"] for line in trainer.log.lines] == [4, 8, 12]


def test_tokens_are_those_that_were_trained_on(tmp_path, llama_directory, monkeypatch):
    trainer = small_trainer(tmp_path, llama_directory)
    step = trainer.next_step()
    trained = []
    compute = trainer.model.get_loss_and_metrics
    monkeypatch.setattr(
        trainer.model,
        "get_loss_and_metrics",
        lambda batch, *args: trained.extend(batch.trees) or compute(batch, *args),
    )
    found = trainer.train_single_step(step)
    assert sorted(tree.prompt_id for tree in trained) == sorted(tree.prompt_id for tree in step.trees)
    assert [len(tree.completions) for tree in trained] == [2] * 4
    assert found["tokens"] == sum(tree.num_tokens for tree in trained)


def test_only_scored_candidates_go_through_the_layers(tmp_path, llama_directory, monkeypatch):
    trainer = small_trainer(tmp_path, llama_directory, model__mcpo__scored_candidates=2)
    scored = []
    compute = trainer.model.score
    monkeypatch.setattr(trainer.model, "score", lambda trees, *args: scored.extend(trees) or compute(trees, *args))
    found = trainer.train_single_step(trainer.next_step())
    assert [len(tree.completions) for tree in scored] == [3] * 4
    assert found["kernel/ess"] == pytest.approx(2, abs=1e-4)


@pytest.mark.parametrize("reuse", [False, True])
def test_scoring_as_many_candidates_as_there_are_changes_nothing(tmp_path, llama_directory, reuse):
    every, limited = (
        lines(tmp_path, llama_directory, model__mcpo__scored_candidates=limit, model__mcpo__reuse_scoring=reuse)
        for limit in (None, NUM_COMPLETIONS - 1)
    )
    assert every == limited


def test_scored_candidates_are_replayed(tmp_path, llama_directory):
    scored = {"model__mcpo__scored_candidates": 2, "model__mcpo__num_negatives": 2}
    two_passes, replayed = (
        lines(tmp_path, llama_directory, model__mcpo__reuse_scoring=reuse, **scored) for reuse in (False, True)
    )
    for ours, theirs in zip(replayed, two_passes, strict=True):
        for name, value in ours.items():
            assert value == pytest.approx(theirs[name], rel=1e-5, abs=1e-5), name


def test_one_negative_is_dpo(tmp_path, llama_directory):
    mcpo, dpo = (lines(tmp_path, llama_directory, model__mcpo__objective=name) for name in ("mcpo", "dpo"))
    for ours, theirs in zip(mcpo, dpo, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert value == pytest.approx(theirs[name], rel=1e-5, abs=1e-5), name


def test_a_draw_does_not_depend_on_the_batch(tmp_path, llama_directory):
    trainer = small_trainer(tmp_path, llama_directory, model__mcpo__num_negatives=2)
    trainer.fit()
    trees = [trainer.train.dataset[index] for index in range(6)]
    epochs = [0, 1, 0, 2, 0, 1]

    def drawn(order: list[int]) -> dict[int, list[list[int]]]:
        mine = [trees[place] for place in order]
        logps, references = trainer.model.score(mine, first_column=1).logps_bK, trainer.train.ref_logps_BK(mine)
        found = draw(trainer.sampling, mine, [epochs[place] for place in order], references, logps)
        return {tree.prompt_id: [c.tolist() for c in tree.completions] for tree in found.batch.trees}

    expected = drawn([0, 1, 2, 3, 4, 5])
    assert drawn([5, 3, 1, 0, 2, 4]) == expected
    assert drawn([2, 4]) | drawn([0, 5, 1]) | drawn([3]) == expected


def test_the_kernel_prefers_high_rewards(tmp_path, llama_directory):
    trainer = small_trainer(tmp_path, llama_directory, model__mcpo__beta=10.0)
    trees = [trainer.train.dataset[index] for index in range(4)]
    favorites = [1, 4, 2, 3]
    rewards = torch.zeros(4, NUM_COMPLETIONS)
    rewards[range(4), favorites] = 100.0
    rewards[:, 0] = 1e6  # the preferred completion is not drawn
    references = trainer.train.ref_logps_BK(trees)
    drawn = draw(trainer.sampling, trees, [0] * 4, references, references + rewards)
    for tree, pruned, favorite in zip(trees, drawn.batch.trees, favorites, strict=True):
        assert pruned.completions[0].tolist() == tree.completions[0].tolist()
        assert pruned.completions[1].tolist() == tree.completions[favorite].tolist()
    assert drawn.kernel["kernel/ess"].tolist() == pytest.approx([1.0] * 4)


def test_how_far_scores_in_fp8_move_the_draw(tmp_path, llama_directory, monkeypatch):
    """A CPU has no FP8, so here scores are exact on request, and otherwise favor the second candidate."""
    trainer = small_trainer(tmp_path, llama_directory, model__mcpo__beta=0.5)
    mcpo = trainer.config.model.mcpo.model_copy(update={"scoring_fp8": True})
    trainer.config = trainer.config.model_copy(
        update={"model": trainer.config.model.model_copy(update={"mcpo": mcpo})}
    )
    off = torch.tensor([[0.0, 0.0, 2.0, 0.0, 0.0]])

    def score(trees, first_column, exactly=False):
        return Scored(trainer.train.ref_logps_BK(trees) + (0.0 if exactly else off), ())

    monkeypatch.setattr(trainer.model, "score", score)
    trees = [trainer.train.dataset[index] for index in range(4)]
    trainer.model.prepare_for_training_step()
    found = trainer.train_part(trees, [0] * 4)["kernel/fp8_total_variation"]
    drawn, exact = torch.tensor([1.0, math.e, 1.0, 1.0]), torch.full((4,), 0.25)
    assert found[0].item() == pytest.approx((drawn / drawn.sum() - exact).abs().sum().item() / 2, rel=1e-5)
    assert found[1:].isnan().all()


@pytest.mark.parametrize(("sampler", "scored"), [("mc_kernel", 3), ("max", 3), ("random", 0), ("given", 0)])
def test_only_samplers_that_read_weights_are_scored(tmp_path, llama_directory, monkeypatch, sampler, scored):
    trainer = small_trainer(tmp_path, llama_directory, model__mcpo__sampler=sampler)
    calls = []
    score = trainer.model.score
    monkeypatch.setattr(trainer.model, "score", lambda *args: calls.append(1) or score(*args))
    trainer.fit()
    assert len(calls) == scored
    assert all(math.isnan(line["kernel/ess"]) == (scored == 0) for line in trainer.log.lines)


def test_sft_needs_no_reference_and_learns(tmp_path, llama_directory):
    changes = {"model__mcpo__objective": "sft", "model__mcpo__num_negatives": 0, "trainer__mcpo__max_epochs": 4}
    losses = lines(tmp_path, llama_directory, **changes, trainer__mcpo__max_steps=12)
    assert not list((tmp_path / "cache").rglob("reference"))
    assert losses[-1]["loss"] < losses[0]["loss"]


def test_a_batch_that_spans_two_epochs(tmp_path, llama_directory):
    write_tokens(tmp_path / "data.jsonl", num_prompts=6)
    changes = {"trainer__mcpo__max_epochs": 2, "trainer__mcpo__max_steps": -1}
    found = lines(tmp_path, llama_directory, **changes)
    assert [line["consumed_prompts"] for line in found] == [4, 8, 12]


def test_prompts_without_enough_candidates_are_counted(tmp_path, llama_directory):
    write_tokens(tmp_path / "data.jsonl", num_prompts=3, num_completions=2)
    three = (tmp_path / "data.jsonl").read_text()
    write_tokens(tmp_path / "data.jsonl", num_prompts=1, num_completions=4, seed=1)
    (tmp_path / "data.jsonl").write_text(three + (tmp_path / "data.jsonl").read_text())
    first = lines(tmp_path, llama_directory, model__mcpo__num_negatives=3, trainer__mcpo__max_steps=1)[0]
    assert first["negatives/count"] == (1 + 1 + 1 + 3) / 4
    assert first["loss"] == pytest.approx((3 * math.log(2) + math.log(4)) / 4, abs=1e-5)


def test_a_reward_that_is_not_finite(tmp_path, llama_directory):
    trainer = small_trainer(tmp_path, llama_directory)
    with torch.no_grad():
        next(trainer.model.chunks[0].parameters())[:] = math.nan
    with pytest.raises(NotFiniteError, match="a reward at step 1") as caught:
        trainer.fit()
    assert re.match(r"4 of 4 prompts: .*data\.jsonl:\d+", caught.value.where) and math.isnan(caught.value.got)
    assert trainer.log.lines == []


def test_a_loss_that_is_not_finite_names_its_prompts(tmp_path, llama_directory, monkeypatch):
    trainer = small_trainer(tmp_path, llama_directory)
    compute = trainer.model.get_loss_and_metrics
    seen = []

    def broken(batch, *args):
        loss, metrics = compute(batch, *args)
        seen.append(batch.trees[2])
        loss[2] = math.nan
        return loss, metrics

    monkeypatch.setattr(trainer.model, "get_loss_and_metrics", broken)
    with pytest.raises(NotFiniteError, match="the loss at step 1") as caught:
        trainer.fit()
    source = trainer.train.dataset.source(seen[0].index)
    assert caught.value.where == f"1 of 4 prompts: {seen[0].prompt_id} ({source})"
    assert trainer.step == 0 and trainer.log.lines == []


def test_a_gradient_that_is_not_finite(tmp_path, llama_directory, monkeypatch):
    trainer = small_trainer(tmp_path, llama_directory)
    monkeypatch.setattr(trainer.model, "finish_training_step", lambda num_prompts: (1e-3, math.inf))
    with pytest.raises(NotFiniteError, match="the gradient at step 1") as caught:
        trainer.fit()
    assert caught.value.got == math.inf
    assert trainer.log.lines == [] and trainer.log.beats == [("reference", 12, 12), ("train", 0, 3)]
    prompts = {trainer.train.dataset[index].prompt_id for _, index in trainer.stream.take(0, 4)}
    assert {entry["prompt_id"] for entry in trainer.log.prompts} == prompts
    assert all("data.jsonl:" in entry["source"] for entry in trainer.log.prompts)


def test_when_it_validates_and_saves(tmp_path, llama_directory):
    write_tokens(tmp_path / "validation.jsonl", num_prompts=3, seed=9)
    trainer = small_trainer(
        tmp_path,
        llama_directory,
        trainer__mcpo__max_epochs=5,
        trainer__mcpo__max_steps=7,
        trainer__mcpo__val_check_interval=2,
        trainer__mcpo__save_interval=3,
        model__data__validation=str(tmp_path / "validation.jsonl"),
    )
    trainer.fit()
    saved = trainer.checkpoints.states
    assert [line["step"] for line in trainer.log.lines if "val_loss" in line] == [2, 4, 6, 7]
    assert [state.step for state in saved] == [3, 6, 7]
    assert [state.consumed_prompts for state in saved] == [12, 24, 28]
    by_step = {line["step"]: line.get("val_loss") for line in trainer.log.lines}
    assert [state.validation.get("val_loss") for state in saved] == [by_step[step] for step in (3, 6, 7)]


def test_statistics_of_a_batch_reach_the_next_step_and_the_checkpoint(tmp_path, llama_directory, monkeypatch):
    """They are the same in an uninterrupted and a resumed run; the objective also reads scores and ranks."""
    monkeypatch.setitem(OBJECTIVES, "probe", probe)
    write_tokens(tmp_path / "data.jsonl", scores=True)
    probed = {"model__mcpo__objective": "probe", "model__mcpo__num_negatives": 2}
    whole = lines(tmp_path, llama_directory, **probed)
    assert whole[0]["loss"] == pytest.approx(whole[0]["probe/gap"] * math.log(2), rel=1e-5)  # all rewards are 0
    first = small_trainer(tmp_path, llama_directory, **probed)
    for expected in whole[:2]:
        assert first.train_single_step(first.next_step())["loss"] == expected["loss"]
        assert first.batch_state["margin"] == pytest.approx(expected["rewards/margin"], rel=1e-6)
    second = small_trainer(tmp_path, llama_directory, **probed)
    second.load_state_dict(TrainerState(**json.loads(json.dumps(asdict(first.state_dict(metrics={}))))))
    assert second.batch_state == first.batch_state and second.batch_state["steps"] == 2


def test_the_state_continues_a_run(tmp_path, llama_directory):
    whole = lines(tmp_path, llama_directory)
    first = small_trainer(tmp_path, llama_directory)
    for _ in range(2):
        first.train_single_step(first.next_step())
    second = small_trainer(tmp_path, llama_directory)
    second.load_state_dict(first.state_dict(metrics={}))
    assert (second.step, second.consumed_prompts) == (2, 8)
    for ours, theirs in zip(second.model.chunks[0].parameters(), first.model.chunks[0].parameters(), strict=True):
        ours.data.copy_(theirs.data)
    second.model.optimizer.reload_model_params()
    second.fit()
    assert [line["step"] for line in second.log.lines] == [3]
    assert second.log.lines[0]["loss"] == whole[2]["loss"]
    assert second.log.lines[0]["lr"] == whole[2]["lr"]


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "num_prompts", "expected"),
    [(1, -1, 16, 1), (1, -1, 47, 2), (3, -1, 47, 3 * 47 // 16), (3, 5, 47, 5), (3, 100, 47, 8), (1, 0, 47, 0)],
)
def test_number_of_steps(max_epochs, max_steps, num_prompts, expected):
    config = checked({"trainer.mcpo.max_epochs": max_epochs, "trainer.mcpo.max_steps": max_steps})
    assert config.model.global_batch_size == 16
    assert num_training_steps(config, num_prompts) == expected
