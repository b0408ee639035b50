# SPDX-License-Identifier: Apache-2.0
"""The gradient's norm: exact, and in the place of megatron-core's own only."""

from __future__ import annotations

import pytest
import torch
from megatron.core.optimizer import clip_grads
from megatron.core.utils import local_multi_tensor_l2_norm

from nemo_mcpo.models.gradient_norm import exact_norm, install_exact_norm


def test_one_large_number_among_millions_of_small_ones():
    """Their squares would be lost one by one in float32."""
    small, large = torch.full((1 << 22,), 1e-4), torch.tensor([1.0])
    norm, _ = exact_norm(65536, None, [[torch.cat([large, small]), large]], False)
    assert norm.dtype == torch.float32
    assert norm.tolist() == pytest.approx([(2.0 + (1 << 22) * 1e-8) ** 0.5], rel=1e-7)


def test_kernels_of_others_stay(monkeypatch):
    for found, expected in ((local_multi_tensor_l2_norm, exact_norm), (torch.norm, torch.norm)):
        monkeypatch.setattr(clip_grads, "l2_norm_impl", found)
        install_exact_norm()
        assert clip_grads.l2_norm_impl is expected


def test_no_norm_of_a_part_is_read(monkeypatch):
    monkeypatch.setattr(torch, "tensor", lambda *args, **kwargs: pytest.fail("made of numbers on the host"))
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: pytest.fail("read on the host"))
    norm, _ = exact_norm(65536, None, [[torch.full((4,), 3.0), torch.full((2, 2), 4.0)]])
    assert norm.item() == 10.0
