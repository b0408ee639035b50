# SPDX-License-Identifier: Apache-2.0
"""Whether a 70B model fits, by hand-computed sizes."""

from __future__ import annotations

import pytest

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.rollouts.fit import GIB, RESERVED_GIB, cache_room, check_layout, check_memory, check_prompts
from nemo_mcpo.rollouts.served_model import ServedModel
from tests.support.configs import online

LLAMA_70B = ServedModel(141_100_000_000, layers=80, heads=64, kv_heads=8, head_dim=128, max_positions=131072)
A100 = 79.1


def settings(**changes):
    keys = {"launcher": "trtllm", "max_seq_len": 8192} | changes
    return online({f"judge.server.{name}": value for name, value in keys.items()}).judge.server


def test_memory_left_for_the_cache():
    """131.4 GiB of weights on four GPUs; TensorRT-LLM uses 90 % of the rest, vLLM 90 % of the total minus weights."""
    weights = 141.1e9 / 4 / GIB
    assert cache_room(settings(tensor_parallel_size=4), LLAMA_70B, A100) == pytest.approx(
        0.9 * (A100 - weights - RESERVED_GIB)
    )
    vllm = settings(launcher="vllm", tensor_parallel_size=2, pipeline_parallel_size=2)
    assert cache_room(vllm, LLAMA_70B, A100) == pytest.approx(0.9 * A100 - weights - RESERVED_GIB)


def test_one_gpu_is_too_small_and_two_are_named():
    with pytest.raises(ConfigError) as caught:
        check_memory(settings(), LLAMA_70B, A100, "judge.server")
    error = caught.value
    assert (error.where, error.expected) == ("judge.server", "2.5 GiB of cache")
    assert error.got == "131.4 GiB of weights per GPU of 79 GiB, 0.0 GiB for the cache"
    assert "judge.server.tensor_parallel_size to 2" in error.fix and "judge.server.max_seq_len" in error.fix


@pytest.mark.parametrize(
    ("changes", "requests"),
    [
        # 0.9 · (79.1 − 32.85 − 3.0) GiB / (2 · 80 · 2 · 128 · 2 · 8192 bytes = 0.625 GiB) = 62.3
        ({"tensor_parallel_size": 4}, 62),
        ({"tensor_parallel_size": 4, "kv_cache_dtype": "fp8"}, 125),
        ({"tensor_parallel_size": 8}, 172),
    ],
)
def test_requests_that_fit(changes, requests):
    facts = check_memory(settings(**changes), LLAMA_70B, A100, "judge.server")
    assert facts.endswith(f"cache for {requests} requests of 8192 tokens")


def test_a_server_without_parallelism_names_no_such_key():
    with pytest.raises(ConfigError) as caught:
        check_memory(settings(launcher="transformers"), LLAMA_70B, A100, "judge.server")
    assert caught.value.fix.startswith("choose server/vllm or server/trtllm")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("tensor_parallel_size", 3, "a divisor of 64 heads, and a divisor or multiple of 8 KV heads"),
        ("tensor_parallel_size", 128, "a divisor of 64 heads, and a divisor or multiple of 8 KV heads"),
        ("pipeline_parallel_size", 81, "at most 80"),
        ("max_seq_len", 131073, "at most 131072, its max_position_embeddings"),
    ],
)
def test_impossible_layouts(key, value, expected):
    with pytest.raises(ConfigError) as caught:
        check_layout(settings(**{key: value}), LLAMA_70B, "judge.server")
    assert (caught.value.where, caught.value.got, caught.value.expected) == (f"judge.server.{key}", value, expected)


def test_possible_layouts():
    for tensor in (1, 2, 4, 8, 16):
        check_layout(settings(tensor_parallel_size=tensor, max_seq_len=131072), LLAMA_70B, "judge.server")


def test_a_prompt_longer_than_a_step():
    with pytest.raises(ConfigError) as caught:
        check_prompts(settings(), 8193, "judge.server")
    assert (caught.value.where, caught.value.expected) == ("judge.server.max_num_tokens", "at least 8193")
    check_prompts(settings(), 8192, "judge.server")
    for changes in ({"launcher": "vllm"}, {"arguments": ["--enable_chunked_prefill"]}):  # in several steps
        check_prompts(settings(**changes), 8193, "judge.server")
