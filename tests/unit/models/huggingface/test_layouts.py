# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.huggingface.families import FAMILIES, dimensions
from nemo_mcpo.models.huggingface.layouts import LAYOUTS

ARCHITECTURE = ModelArchitecture(
    family="qwen2",
    num_layers=1,
    hidden_size=8,
    ffn_hidden_size=12,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=2,
    vocab_size=130,
    max_positions=16,
    norm_epsilon=1e-6,
    rope_theta=10000.0,
)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("rule", FAMILIES["qwen2"].rules + FAMILIES["qwen3"].rules, ids=lambda rule: rule.parameter)
def test_join_undoes_split(rule, size):
    sizes = dimensions(ARCHITECTURE)
    tensors = [torch.randn(*(sizes[name] for name in shape)) for shape in rule.sources.values()]
    split, join = LAYOUTS[rule.layout]
    shards = [split(tensors, ARCHITECTURE, rank, size) for rank in range(size)]
    joined = join(shards, ARCHITECTURE)
    assert len(joined) == len(tensors)
    assert all(torch.equal(before, after) for before, after in zip(tensors, joined, strict=True))


def test_query_key_value_is_interleaved_by_group():
    # Heads q0 q1 share k0 v0, heads q2 q3 share k1 v1; each head has two rows.
    query, key, value = torch.arange(0, 8), torch.arange(10, 14), torch.arange(20, 24)
    whole = LAYOUTS["query_key_value"].split([query, key, value], ARCHITECTURE, 0, 1)
    assert whole.tolist() == [0, 1, 2, 3, 10, 11, 20, 21, 4, 5, 6, 7, 12, 13, 22, 23]
    second = LAYOUTS["query_key_value"].split([query, key, value], ARCHITECTURE, 1, 2)
    assert second.tolist() == whole.tolist()[8:]


def test_gate_and_up_are_paired_within_a_rank():
    gate, up = torch.arange(0, 4), torch.arange(10, 14)
    assert LAYOUTS["gate_up"].split([gate, up], ARCHITECTURE, 1, 2).tolist() == [2, 3, 12, 13]


def test_vocabulary_is_padded_with_zeros_even_where_a_rank_holds_padding_only():
    architecture = replace(ARCHITECTURE, vocab_size=130)  # padded to 256: rank 3 of 4 starts at 192
    tensor = torch.ones(130, 8)
    shards = [LAYOUTS["vocabulary"].split([tensor], architecture, rank, 4) for rank in range(4)]
    assert [tuple(shard.shape) for shard in shards] == [(64, 8)] * 4
    assert [int(shard.sum()) for shard in shards] == [64 * 8, 64 * 8, 2 * 8, 0]
