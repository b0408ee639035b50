# SPDX-License-Identifier: Apache-2.0
"""The sequences passed to variable-length attention are those of the trees; torch stands in for the GPU kernel."""

from __future__ import annotations

import math

import pytest
import torch

from nemo_mcpo.trees.backends.varlen_layout import varlen_layout
from nemo_mcpo.trees.params import TreeParams
from tests.support.sequences import causal_attention, places_of_sequences
from tests.unit.trees.backends.test_backends import HEADS, ROWS, inputs


def end_aligned_varlen(query, key, value, layout):
    """What a FlashAttention varlen kernel computes: query i of n sees the first (keys − n + i + 1) keys."""
    outputs = []
    repeats = query.shape[1] // key.shape[1]
    for number in range(len(layout.query_offsets) - 1):
        own = slice(*layout.query_offsets[number : number + 2].tolist())
        seen = slice(*layout.key_offsets[number : number + 2].tolist())
        keys, values = (tensor[seen].repeat_interleave(repeats, dim=1) for tensor in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[own], keys) / math.sqrt(query.shape[-1])
        num_queries, num_keys = scores.shape[1:]
        assert num_queries <= layout.longest_query and num_keys <= layout.longest_key
        hidden = torch.ones(num_queries, num_keys, dtype=torch.bool).triu(num_keys - num_queries + 1)
        outputs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -math.inf).softmax(-1), values))
    return torch.cat(outputs)


@pytest.mark.parametrize(("num_heads", "num_groups"), HEADS)
@pytest.mark.parametrize("row", list(ROWS)[:3])
def test_varlen_attention_equals_separate_sequences(row, num_heads, num_groups):
    (query, key, value), weight = inputs(ROWS[row], num_heads, num_groups, torch.float64, torch.device("cpu"))
    layout = TreeParams(spans=ROWS[row]).derived(varlen_layout)
    assert layout.query_offsets.dtype == layout.key_offsets.dtype == torch.int32
    context = end_aligned_varlen(query, layout.gather(key), layout.gather(value), layout)
    for places in places_of_sequences(ROWS[row]):
        torch.testing.assert_close(
            context[places], causal_attention(query[places], key[places], value[places]), rtol=0, atol=1e-12
        )
    gathered = [tensor.detach().requires_grad_() for tensor in (layout.gather(key), layout.gather(value))]
    gradients = torch.autograd.grad((context * weight).sum(), (key, value))
    loss = (end_aligned_varlen(query, *gathered, layout) * weight).sum()
    for gradient, one in zip(gradients, torch.autograd.grad(loss, gathered), strict=True):
        expected = torch.zeros_like(gradient).index_add_(0, layout.gather_G, one)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("row", ROWS)
def test_own_places_and_copies_cover_every_gathered_key_once(row):
    layout = varlen_layout(TreeParams(spans=ROWS[row]))
    assert torch.equal(layout.gather_G[layout.own_S], torch.arange(ROWS[row][-1].stop))
    places = torch.cat([layout.own_S, *(places for _, places in layout.copies)])
    assert torch.equal(places.sort().values, torch.arange(len(layout.gather_G)))
    for positions, places in layout.copies:
        assert len(positions.unique()) == len(positions)
        assert torch.equal(layout.gather_G[places], positions)


def test_layout_is_built_once_per_row():
    params = TreeParams(spans=ROWS["one tree"])
    assert params.derived(varlen_layout) is params.derived(varlen_layout)
