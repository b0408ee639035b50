# SPDX-License-Identifier: Apache-2.0
"""A compiled function returns what the function returns, even while products are recorded."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from nemo_mcpo.models import log_probs
from nemo_mcpo.models.replay import ProductRecording
from nemo_mcpo.platform import compiled
from nemo_mcpo.platform.compiled import compiled_on_gpu
from nemo_mcpo.trees import rotary


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Traces functions as on a GPU but runs them with torch, since there may be no compiler; lists what was traced."""
    traced: list[str] = []

    def trace(function, dynamic):
        traced.append(function.__name__)
        return compile_(function, dynamic=dynamic, backend="aot_eager", fullgraph=True)

    compile_ = torch.compile
    monkeypatch.setattr(compiled.torch, "compile", trace)
    monkeypatch.setattr(compiled, "_is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(compiled, "is_installed", lambda module: True)
    return traced


def test_a_cpu_runs_the_function_itself():
    assert compiled_on_gpu(lambda tensor: tensor + 1)(torch.zeros(1)).item() == 1.0


def test_traced_once_for_all_sizes(as_on_a_gpu):
    double = compiled_on_gpu(lambda tensor: tensor * 2)
    for size in (3, 5, 8):
        assert torch.equal(double(torch.ones(size)), torch.full((size,), 2.0))
    assert len(as_on_a_gpu) == 1


def test_rotary_embedding(as_on_a_gpu):
    turn = compiled_on_gpu(rotary._turn.__wrapped__)
    heads = torch.randn(7, 3, 48)[..., :16]
    rotation = rotary.rotation_by_position(rotary.inverse_frequencies(16, 1e4, None), torch.arange(7))
    recording = ProductRecording()
    turned = recording.run_layer(1, partial(turn, heads, *rotation))
    assert torch.equal(turned, rotary._turn.__wrapped__(heads, *rotation))
    assert recording.results == {1: []} and as_on_a_gpu == ["_turn"]


def test_the_exponentials_of_the_log_prob_head(as_on_a_gpu):
    logits = torch.randn(5, 9)
    logits[:, 7:] = -torch.inf
    ours, theirs = logits.clone(), logits.clone()
    found = compiled_on_gpu(log_probs._exponentiate_and_sum.__wrapped__)(ours)
    expected = log_probs._exponentiate_and_sum.__wrapped__(theirs)
    for one, other in zip((ours, *found), (theirs, *expected), strict=True):
        torch.testing.assert_close(one, other)
