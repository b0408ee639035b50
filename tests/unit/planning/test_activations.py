# SPDX-License-Identifier: Apache-2.0
"""Planned activations against those that autograd keeps in a small model."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from functools import partial

import pytest
import torch

from nemo_mcpo.models.forward_step import score_trees, train_trees
from nemo_mcpo.models.gpt import ParallelLayout, build_gpt
from nemo_mcpo.models.optimizer import wrap_for_training
from nemo_mcpo.models.replay import LayerRecording, ProductRecording
from nemo_mcpo.objectives import OBJECTIVES
from nemo_mcpo.planning.activations import CPU, Operators, layer_bytes, output_bytes, recorded_bytes
from nemo_mcpo.planning.memory import stage_memory
from nemo_mcpo.planning.workload import rows_of
from nemo_mcpo.trees.backends import flash_attn
from nemo_mcpo.trees.packing import build_row
from tests.support.planned import (
    ARCHITECTURES,
    DATA,
    ROW_TOKENS,
    Allocations,
    LiveBytes,
    fill,
    layout_of,
    preferences,
    storage_bytes,
    trees,
)
from tests.support.trees import place

TOLERANCE = 0.03
IN_BF16 = replace(CPU, norm=5)
"""A norm on a CPU keeps two tensors in float32."""
FUSED = replace(CPU, swiglu=3, gathers=True)
"""A GPU's fused feed-forward and variable-length attention, with the norms of a CPU."""

pytestmark = pytest.mark.usefixtures("one_process")


def measured_and_planned(name: str, layout: ParallelLayout, operators: Operators) -> tuple[int, float]:
    """Return the bytes kept by a forward pass of four trees in one row."""
    architecture = ARCHITECTURES[name]
    [chunk] = build_gpt(architecture, layout)
    fill(chunk.parameters())
    if operators.gathers:
        chunk.attend = flash_attn.attend
        chunk.config.bias_activation_fusion = True
    batch = trees(4)
    tokens = sum(tree.num_tokens for tree in batch)
    row = build_row(place(batch), tokens)
    live = LiveBytes(chunk.parameters())
    output = live.during(lambda: chunk(row))
    measured = live.now
    del output
    planned_layout = layout_of(layout)
    rows = rows_of(planned_layout, DATA)
    layers = architecture.num_layers * layer_bytes(
        architecture, planned_layout, layout.recompute, rows.gathered, operators
    )
    return measured, tokens * layers + output_bytes(architecture, planned_layout, rows.targets, tokens, operators)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_forward_pass_keeps_what_is_planned(name, recompute):
    measured, planned = measured_and_planned(name, ParallelLayout(recompute=recompute), CPU)
    assert planned == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_in_bf16(recompute):
    layout = ParallelLayout(recompute=recompute, dtype=torch.bfloat16)
    measured, planned = measured_and_planned("llama", layout, IN_BF16)
    assert planned == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("recompute", ["none", "selective"])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_with_the_operators_of_a_gpu(name, recompute, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", types.SimpleNamespace(flash_attn_varlen_func=varlen))
    with torch.compiler.set_stance("force_eager"):
        measured, planned = measured_and_planned(name, ParallelLayout(recompute=recompute), FUSED)
    assert planned == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize(("reuse", "recording"), [("layers", LayerRecording), ("products", ProductRecording)])
def test_what_scoring_keeps_for_training(reuse, recording):
    architecture = ARCHITECTURES["llama"]
    [chunk] = build_gpt(architecture, ParallelLayout())
    fill(chunk.parameters())
    rows = score_trees([chunk], trees(4), budget=1000, recording=recording).rows
    if reuse == "layers":
        kept = [(output,) for output in rows[0].tape.outputs.values()]
    else:
        kept = [result for results in rows[0].tape.results.values() for result in results]
    # Attention on a CPU has two results, which are recorded; attention on a GPU is not recorded.
    measured = storage_bytes(result[0] for result in kept if len(result) == 1)
    assert measured == recorded_bytes(architecture, replace(layout_of(ParallelLayout()), reuse=reuse), tokens=400)


def varlen(query, key, value, *lengths, causal):
    return Varlen.apply(query, key, value)


class Varlen(torch.autograd.Function):
    """Keeps what FlashAttention keeps: queries, gathered keys and values, context, log-sum-exps."""

    @staticmethod
    def forward(ctx, query, key, value):
        context, log_sum_exp = (
            torch.zeros_like(query, memory_format=torch.contiguous_format),
            query.new_zeros(query.shape[:2], dtype=torch.float32),
        )
        ctx.save_for_backward(query, key, value, context, log_sum_exp)
        return context

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("vocab_size", "recompute", "bound"), [(1000, "none", 1.1), (1000, "full", 1.5), (40000, "none", 1.01)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_of_a_training_pass(vocab_size, recompute, bound, dtype):
    """With a large vocabulary the head is the peak, which is exact; a layer's backward pass is an upper bound."""
    architecture = replace(ARCHITECTURES["llama"], vocab_size=vocab_size)
    layout = ParallelLayout(recompute=recompute, dtype=dtype)
    chunks = build_gpt(architecture, layout)
    fill(chunks[0].parameters())
    wrapped = wrap_for_training(chunks, bf16=dtype == torch.bfloat16)
    fixed = [*chunks[0].parameters(), *(buffer.grad_data for buffer in wrapped[0].buffers)]
    with Allocations(fixed) as allocations:
        train_trees(wrapped, preferences(), partial(OBJECTIVES["dpo"], beta=0.1), ROW_TOKENS)
    planned = layout_of(layout)
    operators = CPU if dtype == torch.float32 else IN_BF16
    memory = stage_memory(architecture, planned, rows_of(planned, DATA), 0, operators)
    assert 0.99 < memory.phases["training"] / allocations.peak < bound
