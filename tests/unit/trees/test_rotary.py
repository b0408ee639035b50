# SPDX-License-Identifier: Apache-2.0
"""Angles by position id are transformers' own, for every scaling that is accepted."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.trees.rotary import ROPE_SCALINGS, inverse_frequencies, rotary_by_position

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
POSITIONS = torch.tensor([0, 1, 2, 2, 5, 511, 100_000])


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 2.5},
        {"type": "linear", "factor": 4.0},
        LLAMA3,
        LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 8192},
    ],
    ids=["none", "default", "linear", "legacy linear", "llama3", "llama3.2"],
)
@pytest.mark.parametrize(("head_dim", "theta"), [(16, 10_000.0), (64, 500_000.0)])
def test_equal_to_transformers(scaling, head_dim, theta):
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        rope_theta=theta,
        rope_scaling=dict(scaling) if scaling else None,
        max_position_embeddings=131_072,
    )
    theirs = LlamaRotaryEmbedding(config)
    frequencies = inverse_frequencies(head_dim, theta, scaling)
    torch.testing.assert_close(frequencies, theirs.inv_freq, rtol=1e-6, atol=0)
    cos, sin = theirs(torch.zeros(1), POSITIONS[None])
    angles = rotary_by_position(theirs.inv_freq, POSITIONS)
    assert angles.shape == (len(POSITIONS), 1, 1, head_dim)
    torch.testing.assert_close(angles[:, 0, 0].cos(), cos[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(angles[:, 0, 0].sin(), sin[0], rtol=0, atol=1e-6)


def test_llama3_by_formula():
    head_dim, theta, factor, low, high, original = 16, 10_000.0, 8.0, 1.0, 4.0, 64
    found = inverse_frequencies(head_dim, theta, LLAMA3).double()
    for pair in range(head_dim // 2):
        plain = theta ** (-2 * pair / head_dim)
        turns = original * plain / (2 * math.pi)
        share = min(max((turns - low) / (high - low), 0.0), 1.0)
        assert found[pair].item() == pytest.approx(share * plain + (1 - share) * plain / factor, rel=1e-6)


def test_angles_by_formula():
    frequencies = inverse_frequencies(8, 100.0, None)
    angles = rotary_by_position(frequencies, torch.tensor([0, 3]))
    expected = [3 * 100.0 ** (-2 * pair / 8) for pair in range(4)]
    assert angles[0].count_nonzero() == 0
    assert angles[1, 0, 0].tolist() == pytest.approx(expected + expected, rel=1e-6)
    assert angles.dtype == torch.float32


@pytest.mark.parametrize("rope_type", ["dynamic", "yarn", "longrope", "unheard_of"])
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_other_scalings_are_refused(rope_type, key):
    with pytest.raises(CheckpointError) as caught:
        inverse_frequencies(16, 10_000.0, {key: rope_type, "factor": 2.0})
    message = str(caught.value)
    assert "rope_scaling.rope_type: this rotary scaling is not supported" in message
    assert f"got {rope_type}, expected {' | '.join(ROPE_SCALINGS)}" in message
    assert "Cure: choose a model with one of these" in message
