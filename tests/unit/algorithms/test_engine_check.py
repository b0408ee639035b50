# SPDX-License-Identifier: Apache-2.0
"""The check before the first step detects engines that would train on wrong numbers."""

from __future__ import annotations

import math
import re

import pytest
import torch

from nemo_mcpo.algorithms.engine_check import EngineError, check_shared_prefixes
from nemo_mcpo.models import gpt
from nemo_mcpo.records import PromptTree
from nemo_mcpo.trees.backends import sdpa
from tests.support.small_gpt import small_model
from tests.support.small_run import small_trainer
from tests.support.trees import random_trees

TREES = random_trees([3, 1, 2], seed=5)
SDPA = {"model__attention_backend": "sdpa"}

pytestmark = pytest.mark.usefixtures("one_process")


def watched(model, monkeypatch) -> list[tuple[PromptTree, bool, torch.Tensor]]:
    """Record what the model scores from now on: the tree, whether its prompt is shared, the log-probs."""
    scored, score = [], model.log_probs

    def watch(trees, share_prompts=True):
        (found,) = score(trees, share_prompts=share_prompts)
        scored.append((*trees, share_prompts, found))
        return [found]

    monkeypatch.setattr(model, "log_probs", watch)
    return scored


@pytest.mark.parametrize("backend", [{}, SDPA])
def test_a_sound_engine_passes(llama_directory, monkeypatch, backend):
    model = small_model(llama_directory, **backend)
    scored = watched(model, monkeypatch)
    check_shared_prefixes(model, TREES, "32")
    smallest = min((TREES[0], TREES[2]), key=lambda tree: tree.num_tokens)
    assert [(tree, shared) for tree, shared, _ in scored] == [(smallest, True), (smallest, False)]
    (_, _, shared), (_, _, separate) = scored
    torch.testing.assert_close(shared, separate, rtol=0, atol=1e-4)
    assert shared.isfinite().all()


def test_without_a_shared_prompt_nothing_is_scored(llama_directory, monkeypatch):
    model = small_model(llama_directory)
    scored = watched(model, monkeypatch)
    check_shared_prefixes(model, TREES[1:2], "32")
    assert scored == []


def test_a_mask_aligned_at_the_beginning_is_found(llama_directory, monkeypatch):
    def from_the_beginning(num_queries, num_before, device):
        return torch.ones(num_queries, num_before + num_queries, dtype=torch.bool).tril()

    monkeypatch.setattr(sdpa, "_end_aligned", from_the_beginning)
    with pytest.raises(EngineError) as caught:
        check_shared_prefixes(small_model(llama_directory, **SDPA), TREES, "32")
    assert re.match(r"prompt \d+, completion \d", caught.value.where)
    assert "model.attention_backend=sdpa" in caught.value.fix


def test_position_ids_by_row_position_are_found(llama_directory, monkeypatch):
    rotary = gpt.rotation_by_position
    monkeypatch.setattr(gpt, "rotation_by_position", lambda f, positions_S: rotary(f, torch.arange(len(positions_S))))
    with pytest.raises(EngineError):
        check_shared_prefixes(small_model(llama_directory), TREES, "32")


def test_a_run_checks_before_its_first_step(tmp_path, llama_directory, monkeypatch):
    monkeypatch.setattr(
        sdpa, "_end_aligned", lambda queries, before, device: torch.ones(queries, before + queries) > 0
    )
    trainer = small_trainer(tmp_path, llama_directory, **SDPA)
    with pytest.raises(EngineError):
        trainer.fit()
    assert trainer.log.lines == []


def test_a_broken_model_is_left_to_the_step_that_names_its_prompts(llama_directory, monkeypatch):
    model = small_model(llama_directory)
    scored = watched(model, monkeypatch)
    with torch.no_grad():
        next(model.chunks[0].parameters())[:] = math.nan
    check_shared_prefixes(model, TREES, "32")
    assert len(scored) == 2 and all(found.isnan().all() for _, _, found in scored)
