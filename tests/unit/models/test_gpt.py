# SPDX-License-Identifier: Apache-2.0
"""The GPT on trees: equal to separate sequences in float64, and to transformers on the same weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.models.gpt import (
    ParallelLayout,
    RMSNorm,
    build_gpt,
    fp8_scoring,
    resolve_transformer_impl,
    transformer_config,
)
from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.models.rows import packed_rows
from nemo_mcpo.trees.packing import build_row
from nemo_mcpo.trees.rotary import inverse_frequencies
from tests.support.models import save_model
from tests.support.small_gpt import float64_gpt, packed_logps, separate_logps, small_model, transformers_logps
from tests.support.trees import place, random_trees

TREES = random_trees([3, 1, 4, 2], seed=3)

pytestmark = pytest.mark.usefixtures("one_process")


def weighted(logps: list[torch.Tensor]) -> torch.Tensor:
    """Weight every completion differently, so that a gradient in the wrong place shows."""
    joined = torch.cat(logps)
    return (joined * torch.linspace(-1, 1, len(joined), dtype=joined.dtype)).sum()


def gradients(model, logps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(weighted(logps), parameters), strict=True))


@pytest.mark.parametrize("name", ["llama", "llama-tied-llama3-rope", "qwen2", "qwen3-tied"])
def test_trees_equal_separate_sequences(tmp_path, name):
    save_model(tmp_path, name)
    model = float64_gpt(tmp_path)
    packed, separate = packed_logps(model, TREES), separate_logps(model, TREES)
    for ours, theirs in zip(packed, separate, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    ours, theirs = gradients(model, packed), gradients(model, separate)
    for name_of_parameter, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name_of_parameter], rtol=0, atol=1e-10)
    assert all(gradient.count_nonzero() for gradient in ours.values())


def test_padding_at_the_end_changes_nothing(llama_directory):
    model = float64_gpt(llama_directory)
    num_tokens = sum(tree.num_tokens for tree in TREES)
    padded = model(build_row(place(TREES), num_tokens + 5))
    torch.testing.assert_close(padded, torch.cat(packed_logps(model, TREES)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["llama", "llama-tied-llama3-rope", "mistral", "qwen2", "qwen3"])
def test_equal_to_transformers(tmp_path, name):
    save_model(tmp_path, name)
    ours = small_model(tmp_path).log_probs(TREES)
    for row, expected in enumerate(transformers_logps(tmp_path, TREES)):
        assert ours[row, : len(expected)].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recomputed_activations_give_the_same_gradients(llama_directory, recompute):
    plain, recomputing = float64_gpt(llama_directory), float64_gpt(llama_directory, recompute)
    expected = gradients(plain, packed_logps(plain, TREES))
    found = gradients_by_backward(recomputing)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-12)


def gradients_by_backward(model) -> dict[str, torch.Tensor]:
    """Activation checkpointing works only under ``backward``, not under ``autograd.grad``."""
    weighted(packed_logps(model, TREES)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_angles_stay_float32_in_a_bf16_model(llama_directory):
    architecture = read_architecture(llama_directory)
    chunk = build_gpt(architecture, ParallelLayout(dtype=torch.bfloat16))[0].bfloat16()
    expected = inverse_frequencies(architecture.head_dim, architecture.rope_theta, architecture.rope_scaling)
    assert torch.equal(chunk.rotary_frequencies, expected)
    assert chunk.rotary_frequencies.dtype == torch.float32


def test_fp8_scoring_pads_rows_and_is_undone_at_its_end(llama_directory):
    config = transformer_config(read_architecture(llama_directory), ParallelLayout(dtype=torch.bfloat16))
    placed = place(random_trees([2], longest=5))

    def row_tokens() -> int:
        return len(packed_rows(placed, 100, config)[0].batch.tokens_S)

    exact = row_tokens()
    with pytest.raises(RuntimeError), fp8_scoring(config):
        assert config.fp8 == "e4m3" and row_tokens() == -(-exact // 16) * 16 > exact
        raise RuntimeError
    assert config.fp8 is None and row_tokens() == exact


def test_transformer_impl_is_resolved():
    assert resolve_transformer_impl("local", needs_fp8=False) == "local"
    assert resolve_transformer_impl("auto", needs_fp8=False) == "local"
    with pytest.raises(ConfigError, match="transformer_impl"):
        resolve_transformer_impl("transformer_engine", needs_fp8=False)
    with pytest.raises(ConfigError, match="fp8"):
        resolve_transformer_impl("auto", needs_fp8=True)


def norm_config(sequence_parallel: bool, dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    return SimpleNamespace(sequence_parallel=sequence_parallel, params_dtype=dtype)


def test_rms_norm():
    norm = RMSNorm(norm_config(sequence_parallel=False), hidden_size=4, eps=1e-3)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("sequence_parallel", [True, False])
def test_gradients_of_norms_are_summed_over_sequence_parallel_ranks(sequence_parallel):
    norm = RMSNorm(norm_config(sequence_parallel=sequence_parallel), hidden_size=4)
    assert norm.weight.sequence_parallel is sequence_parallel


def test_weights_of_norms_have_the_dtype_of_the_other_parameters():
    assert (
        RMSNorm(norm_config(sequence_parallel=False, dtype=torch.bfloat16), hidden_size=4).weight.dtype
        == torch.bfloat16
    )
