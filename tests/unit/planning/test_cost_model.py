# SPDX-License-Identifier: Apache-2.0
"""The cost model of a step against torch's count of operations."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.planning.cost_model import StepCost, first_completions
from nemo_mcpo.records import PromptTree
from tests.support.small_gpt import float64_gpt, packed_logps
from tests.support.trees import random_trees

TREES = random_trees([4, 3, 5], seed=3)
ATTENTION_ONLY = SimpleNamespace(
    num_layers=1, hidden_size=0, ffn_hidden_size=0, num_attention_heads=1, num_query_groups=1, head_dim=1,
    padded_vocab_size=1,
)  # fmt: skip


@pytest.mark.usefixtures("one_process")
def test_a_forward_pass_is_what_torch_counts(llama_directory):
    model = float64_gpt(llama_directory)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        packed_logps(model, TREES)
    architecture = read_architecture(llama_directory)
    cost = StepCost(architecture, recompute="none", reuse=False)
    a, pairs = architecture, 0.0
    for tree in TREES:
        prompt = len(tree.prompt_tokens)
        pairs += prompt * (prompt + 1) / 2
        pairs += sum(len(c) * prompt + len(c) * (len(c) + 1) / 2 for c in tree.completions)
    attention = 4 * a.num_layers * a.num_attention_heads * a.head_dim * pairs
    counted = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    assert sum(cost.forward(tree) for tree in TREES) == pytest.approx(counted + attention, rel=1e-12)


def test_steps_by_hand():
    architecture = SimpleNamespace(
        **vars(ATTENTION_ONLY) | {"hidden_size": 1, "num_attention_heads": 0, "num_query_groups": 0}
    )
    # Only the head remains: 2 operations per completion token.
    [tree] = random_trees([4], seed=1)
    lengths = [len(completion) for completion in tree.completions]
    two_passes = StepCost(architecture, recompute="full", reuse=False)
    assert two_passes.plain_dpo([tree]) == 3 * 2 * (lengths[0] + lengths[1])
    assert two_passes.mcpo([tree], 1) == 2 * sum(lengths[1:]) + 3 * 2 * (lengths[0] + lengths[1])
    reused = StepCost(architecture, recompute="full", reuse=True)
    assert reused.mcpo([tree], 2) == 2 * sum(lengths[1:]) + 3 * 2 * sum(lengths[:3])


def pairs(*completions: int) -> float:
    """Operations of attention in a tree with a prompt of two tokens: 4 per pair."""
    return 4 * (3 + sum(2 * length + length * (length + 1) / 2 for length in completions))


@pytest.mark.parametrize(
    ("recompute", "reuse", "replays", "again"),
    [
        ("none", False, False, 0),
        ("selective", False, False, 1),
        ("full", False, False, 1),
        ("full", True, False, 0),  # the forward pass replays layers, and recompute runs attention
        ("full", True, True, -1),
        ("none", True, False, 0),  # products are replayed, and attention runs
        ("selective", True, False, 1),
        ("none", True, True, -1),
        ("selective", True, True, -1),
    ],
)
def test_attention_runs_again_on_a_gpu(recompute, reuse, replays, again):
    """In addition to the attention of scored completions and three times that of trained ones."""
    prompt, lengths = np.zeros(2), [np.zeros(count) for count in (1, 3, 2)]
    tree = PromptTree(0, 0, prompt, tuple(lengths))
    cost = StepCost(ATTENTION_ONLY, recompute, reuse, replays_attention=replays)
    scored = pairs(1, 3, 2) if reuse else pairs(3, 2)
    assert cost.mcpo([tree], 1) == scored + (3 + again) * pairs(1, 3)


def test_a_head_that_is_not_kept_runs_again():
    """2 operations per completion token: forward, two in the backward pass, and once more."""
    [tree] = random_trees([2], seed=1)
    shape = SimpleNamespace(**vars(ATTENTION_ONLY) | {"hidden_size": 1, "num_layers": 0})
    tokens = sum(len(completion) for completion in tree.completions)
    assert StepCost(shape, "none", reuse=False, repeats_head=True).trained(tree) == 4 * 2 * tokens
    assert StepCost(shape, "none", reuse=False).trained(tree) == 3 * 2 * tokens


def test_first_completions():
    assert first_completions(TREES[0], 2).completions == TREES[0].completions[:2]
