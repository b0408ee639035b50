# SPDX-License-Identifier: Apache-2.0
"""Command lines of the servers that we start, word by word, and the options in files."""

from __future__ import annotations

import json

import pytest

from nemo_mcpo.rollouts.launchers import LAUNCHERS, gpus_of
from tests.support.configs import server_settings


def line(launcher: str, files, **changes) -> str:
    chosen = server_settings(launcher=launcher, **changes)
    return " ".join(LAUNCHERS[launcher].command("/run/policy-0", 8001, chosen, files))


PARALLEL = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}


def test_trtllm_serve(tmp_path):
    """The user's own arguments come last and take precedence."""
    chosen = {"command": ["trtllm-serve"], "arguments": ["--trust_remote_code"], "kv_cache_dtype": "fp8"}
    assert line("trtllm", tmp_path, **PARALLEL, **chosen) == (
        "trtllm-serve /run/policy-0 --host 127.0.0.1 --port 8001 --backend pytorch --tp_size 4 --pp_size 2 "
        "--max_batch_size 256 --max_num_tokens 8192 --max_seq_len 192 --kv_cache_free_gpu_memory_fraction 0.9 "
        f"--extra_llm_api_options {tmp_path}/trtllm.yaml --trust_remote_code"
    )
    assert json.loads((tmp_path / "trtllm.yaml").read_text()) == {
        "max_input_len": 192,
        "cuda_graph_config": {"enable_padding": True, "max_batch_size": 256},
        "scheduler_config": {"capacity_scheduler_policy": "MAX_UTILIZATION"},
        "kv_cache_config": {"enable_block_reuse": True, "free_gpu_memory_fraction": 0.9, "dtype": "fp8"},
    }


def test_vllm_serve(tmp_path):
    """The model is served under its path and its short name; requests may use either."""
    assert line("vllm", tmp_path, command=["vllm"], arguments=["--enforce-eager"], **PARALLEL) == (
        "vllm serve /run/policy-0 --host 127.0.0.1 --port 8001 --tensor-parallel-size 4 --pipeline-parallel-size 2 "
        "--max-num-seqs 256 --max-num-batched-tokens 8192 --max-model-len 192 --gpu-memory-utilization 0.9 "
        "--kv-cache-dtype auto --generation-config vllm --enable-prefix-caching "
        "--served-model-name /run/policy-0 policy-0 --enforce-eager"
    )


def test_transformers_serve(tmp_path):
    command = line("transformers", tmp_path, command=["transformers"], arguments=["--device", "cpu"])
    assert command == "transformers serve /run/policy-0 --host 127.0.0.1 --port 8001 --device cpu"


@pytest.mark.parametrize(("launcher", "number"), [("trtllm", 8), ("vllm", 8), ("transformers", 1)])
def test_gpus_of_a_server(launcher, number):
    assert gpus_of(server_settings(launcher=launcher, **PARALLEL)) == number
