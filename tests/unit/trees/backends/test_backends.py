# SPDX-License-Identifier: Apache-2.0
"""With every backend, each completion has exactly the attention that it would have as a separate sequence."""

from __future__ import annotations

import re

import pytest
import torch

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.records import TreeSpan
from nemo_mcpo.trees.backends import AUTOMATIC, BACKENDS, choose_backend
from nemo_mcpo.trees.params import TreeParams
from tests.support.sequences import causal_attention, places_of_sequences

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ROWS = {
    "one tree": (TreeSpan(0, 5, (8, 9, 15)),),
    "several trees, one without completions, padding": (
        TreeSpan(0, 3, (7, 8)),
        TreeSpan(8, 9, (12,)),
        TreeSpan(12, 16),
        TreeSpan(16, 40, (41, 75, 77, 78)),
        TreeSpan(78, 81),
    ),
    "padding": (TreeSpan(0, 3),),
    "longer than any kernel's block": (TreeSpan(0, 150, (450, 460, 700)), TreeSpan(700, 1000, (1001, 1100))),
}
HEADS = [(4, 4), (4, 2), (4, 1)]
# Largest differences from float64: outputs, gradients.
TOLERANCES = {torch.float64: (1e-12, 1e-11), torch.float32: (2e-6, 2e-5), torch.bfloat16: (0.03, 0.2)}


def inputs(spans, num_heads, num_groups, dtype, device, head_dim=16):
    generator = torch.Generator().manual_seed(0)
    shapes = [(spans[-1].stop, heads, head_dim) for heads in (num_heads, num_groups, num_groups, num_heads)]
    tensors = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    *attended, weight = (tensor.to(dtype).to(device) for tensor in tensors)
    return [tensor.requires_grad_() for tensor in attended], weight


def check_against_separate_sequences(name, spans, num_heads, num_groups, dtype, device, head_dim=16):
    attended, weight = inputs(spans, num_heads, num_groups, dtype, device, head_dim)
    params = TreeParams(spans=spans, attend=BACKENDS[name].attend, device=device)
    context = BACKENDS[name].attend(*attended, params)
    assert context.shape == weight.shape and context.dtype == dtype
    exact = [tensor.detach().double().cpu().requires_grad_() for tensor in attended]
    exact_weight = weight.double().cpu()
    expected = torch.zeros_like(exact_weight)
    loss = 0.0
    counted = torch.zeros(spans[-1].stop, dtype=torch.bool)
    for places in places_of_sequences(spans):
        one = causal_attention(*(tensor[places] for tensor in exact))
        new = ~counted[places]  # a prompt's outputs are the same in all its sequences
        loss = loss + (one * exact_weight[places])[new].sum()
        expected[places], counted[places] = one.detach(), True
    of_outputs, of_gradients = TOLERANCES[dtype]
    torch.testing.assert_close(context.detach().double().cpu(), expected, rtol=0, atol=of_outputs)
    gradients = torch.autograd.grad((context * weight).sum(), attended)
    for gradient, one in zip(gradients, torch.autograd.grad(loss, exact), strict=True):
        torch.testing.assert_close(gradient.double().cpu(), one, rtol=0, atol=of_gradients)


@pytest.mark.parametrize("name", AUTOMATIC["cpu"])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("num_heads", "num_groups"), HEADS)
@pytest.mark.parametrize("row", ROWS)
def test_packed_equals_separate_on_cpu(name, dtype, num_heads, num_groups, row):
    check_against_separate_sequences(name, ROWS[row], num_heads, num_groups, dtype, CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*AUTOMATIC["cuda"], "sdpa"])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("num_heads", "num_groups"), HEADS)
@pytest.mark.parametrize("row", ROWS)
def test_packed_equals_separate_on_gpu(name, dtype, num_heads, num_groups, row):
    reason = BACKENDS[name].reason_unavailable(GPU, dtype)
    if reason:
        pytest.skip(reason)
    check_against_separate_sequences(name, ROWS[row], num_heads, num_groups, dtype, GPU, head_dim=64)


def test_auto_chooses_the_first_that_can_run(monkeypatch):
    assert choose_backend("auto", CPU, torch.float32) == "cascade"
    assert choose_backend("sdpa", CPU, torch.float32) == "sdpa"
    monkeypatch.setitem(
        BACKENDS, "cascade", BACKENDS["cascade"]._replace(reason_unavailable=lambda device, dtype: "gone")
    )
    assert choose_backend("auto", CPU, torch.float32) == "sdpa"


@pytest.mark.parametrize("name", [name for name in BACKENDS if name not in AUTOMATIC["cpu"]])
def test_an_unavailable_backend_is_refused(name):
    with pytest.raises(ConfigError) as caught:
        choose_backend(name, CPU, torch.float32)
    assert caught.value.where == "model.attention_backend"
    assert str(caught.value.got).startswith(f"{name}: it needs a GPU")
    assert "model.attention_backend=auto" in caught.value.fix


def test_auto_without_an_available_backend_names_every_reason():
    with pytest.raises(ConfigError) as caught:
        choose_backend("auto", GPU, torch.float64)
    assert caught.value.where == "model.attention_backend"
    assert [reason.split(": ")[0] for reason in str(caught.value.got).split("; ")] == list(AUTOMATIC["cuda"])
    assert "model.attention_backend=sdpa" in caught.value.fix


def test_flash_backends_refuse_float32():
    for name in ("flash_attn", "varlen", "transformer_engine"):
        assert re.search("bf16 and fp16", BACKENDS[name].reason_unavailable(GPU, torch.float32) or "")
