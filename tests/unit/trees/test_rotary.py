# SPDX-License-Identifier: Apache-2.0
"""Angles by position id and the rotated heads equal those of transformers, for every supported scaling."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.trees.rotary import ROPE_SCALINGS, inverse_frequencies, rotate, rotation_by_position
from tests.support.models import LLAMA3

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
    rotation = rotation_by_position(theirs.inv_freq, POSITIONS)
    assert rotation.cos.shape == rotation.sin.shape == (len(POSITIONS), 1, head_dim // 2)
    torch.testing.assert_close(rotation.cos[:, 0], cos[0, :, : head_dim // 2], rtol=0, atol=1e-6)
    torch.testing.assert_close(rotation.sin[:, 0], sin[0, :, : head_dim // 2], rtol=0, atol=1e-6)


def test_llama3_by_formula():
    head_dim, theta, factor, low, high, original = 16, 10_000.0, 8.0, 1.0, 4.0, 32
    found = inverse_frequencies(head_dim, theta, LLAMA3).double()
    for pair in range(head_dim // 2):
        plain = theta ** (-2 * pair / head_dim)
        turns = original * plain / (2 * math.pi)
        share = min(max((turns - low) / (high - low), 0.0), 1.0)
        assert found[pair].item() == pytest.approx(share * plain + (1 - share) * plain / factor, rel=1e-6)


def test_angles_by_formula():
    frequencies = inverse_frequencies(8, 100.0, None)
    rotation = rotation_by_position(frequencies, torch.tensor([0, 3]))
    angles = [3 * 100.0 ** (-2 * pair / 8) for pair in range(4)]
    assert rotation.cos[0, 0].tolist() == [1.0] * 4 and rotation.sin[0, 0].tolist() == [0.0] * 4
    assert rotation.cos[1, 0].tolist() == pytest.approx([math.cos(angle) for angle in angles], rel=1e-6)
    assert rotation.sin[1, 0].tolist() == pytest.approx([math.sin(angle) for angle in angles], rel=1e-6)
    assert rotation.cos.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_turns_heads_and_gradients_as_transformers_does(dtype):
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(len(POSITIONS), 5, 3 * 16, dtype=torch.float64, generator=generator).to(dtype)
    weight = torch.randn(len(POSITIONS), 5, 16, dtype=torch.float64, generator=generator).to(dtype)
    rotation = rotation_by_position(inverse_frequencies(16, 10_000.0, None), POSITIONS)
    mine, theirs = (projected.clone().requires_grad_() for _ in range(2))
    turned = rotate(mine[..., 16:32], rotation)  # a part of a larger tensor, as queries come out of their projection
    wide = torch.promote_types(dtype, torch.float32)
    cos, sin = (torch.cat((half, half), dim=-1).to(wide).transpose(0, 1) for half in rotation)
    heads = theirs[..., 16:32].to(wide).transpose(0, 1)
    expected = apply_rotary_pos_emb(heads, heads, cos, sin, unsqueeze_dim=0)[0][0].transpose(0, 1).to(dtype)
    assert torch.equal(turned, expected)
    gradients = [
        torch.autograd.grad((one * weight).sum(), source)[0] for one, source in ((turned, mine), (expected, theirs))
    ]
    assert torch.equal(*gradients)


def test_gradcheck():
    heads = torch.randn(len(POSITIONS), 2, 4, dtype=torch.float64, requires_grad=True)
    rotation = rotation_by_position(inverse_frequencies(4, 100.0, None), POSITIONS)
    assert torch.autograd.gradcheck(lambda one: rotate(one, rotation), heads)


@pytest.mark.parametrize("rope_type", ["dynamic", "yarn", "longrope", "unheard_of"])
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_other_scalings_are_refused(rope_type, key):
    with pytest.raises(CheckpointError) as caught:
        inverse_frequencies(16, 10_000.0, {key: rope_type, "factor": 2.0})
    error = caught.value
    assert error.where == "config.json: rope_scaling.rope_type"
    assert (error.got, error.expected) == (rope_type, " | ".join(ROPE_SCALINGS))
    assert "choose a model" in error.fix
