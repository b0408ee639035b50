# SPDX-License-Identifier: Apache-2.0
"""The model of a step's work, against counts of what torch really multiplies."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.planning.cost_model import StepCost, first_completions
from tests.support.small_gpt import float64_gpt, packed_logps
from tests.support.trees import random_trees

TREES = random_trees([4, 3, 5], seed=3)


@pytest.mark.usefixtures("one_process")
def test_a_forward_pass_is_what_torch_counts(llama_directory):
    model = float64_gpt(llama_directory)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        packed_logps(model, TREES)
    architecture = read_architecture(llama_directory)
    cost = StepCost(architecture, recompute=False, reuse=False)
    a, pairs = architecture, 0.0
    for tree in TREES:
        prompt = len(tree.prompt_tokens)
        pairs += prompt * (prompt + 1) / 2
        pairs += sum(len(c) * prompt + len(c) * (len(c) + 1) / 2 for c in tree.completions)
    attention = 4 * a.num_layers * a.num_attention_heads * a.head_dim * pairs
    counted = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    assert sum(cost.forward(tree) for tree in TREES) == pytest.approx(counted + attention, rel=1e-12)


def test_steps_by_hand():
    architecture = type(
        "Architecture",
        (),
        {
            "num_layers": 1, "hidden_size": 1, "ffn_hidden_size": 0, "num_attention_heads": 0, "num_query_groups": 0,
            "head_dim": 1, "padded_vocab_size": 1,
        },
    )()  # fmt: skip
    # Only the head is left: 2 operations a completion token.
    [tree] = random_trees([4], seed=1)
    lengths = [len(completion) for completion in tree.completions]
    two_passes = StepCost(architecture, recompute=True, reuse=False)
    assert two_passes.plain_dpo([tree]) == 3 * 2 * (lengths[0] + lengths[1])
    assert two_passes.mcpo([tree], 1) == 2 * sum(lengths[1:]) + 3 * 2 * (lengths[0] + lengths[1])
    reused = StepCost(architecture, recompute=True, reuse=True)
    assert reused.mcpo([tree], 2) == 2 * sum(lengths[1:]) + 3 * 2 * sum(lengths[:3])


def test_first_completions():
    assert first_completions(TREES[0], 2).completions == TREES[0].completions[:2]
