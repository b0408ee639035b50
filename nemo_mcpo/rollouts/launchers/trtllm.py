# SPDX-License-Identifier: Apache-2.0
"""Launcher ``trtllm``: TensorRT-LLM's server, on GPUs."""

from __future__ import annotations

import json
from pathlib import Path

from nemo_mcpo.config import Server
from nemo_mcpo.rollouts.launchers.launcher import HOST, Launcher, words

OPTIONS = "trtllm.yaml"


def _options(settings: Server) -> dict[str, object]:
    """Options that ``trtllm-serve`` only reads from a file; a section replaces the flags about the same subject.

    Without them it does not pad CUDA graphs (so most batches above 32 run without one), reserves cache for the longest
    possible answer before it starts a request (``GUARANTEED_NO_EVICT``), and since 1.2 refuses prompts above 1,024
    tokens. NeMo-RL sets the same (``nemo_rl/models/generation/trtllm/trtllm_worker_async.py``).
    """
    return {
        "max_input_len": settings.max_seq_len,
        "cuda_graph_config": {"enable_padding": True, "max_batch_size": settings.max_batch_size},
        "scheduler_config": {"capacity_scheduler_policy": "MAX_UTILIZATION"},
        "kv_cache_config": {
            "enable_block_reuse": True,
            "free_gpu_memory_fraction": settings.kv_cache_fraction,
            "dtype": settings.kv_cache_dtype,
        },
    }


def _command(model: str, port: int, settings: Server, files: Path) -> list[str]:
    """``trtllm-serve`` on a Hugging Face directory; FP8 checkpoints are recognized by ``hf_quant_config.json``.

    ``--extra_llm_api_options`` is the name in 1.0 and 1.1, and an alias of ``--config`` in later versions.
    """
    path = files / OPTIONS
    path.write_text(json.dumps(_options(settings), indent=2) + "\n", encoding="utf-8")  # JSON is YAML
    options = {
        "--host": HOST,
        "--port": port,
        "--backend": "pytorch",
        "--tp_size": settings.tensor_parallel_size,
        "--pp_size": settings.pipeline_parallel_size,
        "--max_batch_size": settings.max_batch_size,
        "--max_num_tokens": settings.max_num_tokens,
        "--max_seq_len": settings.max_seq_len,
        "--kv_cache_free_gpu_memory_fraction": settings.kv_cache_fraction,
        "--extra_llm_api_options": path,
    }
    return [*settings.command, model, *words(options), *settings.arguments]


TRTLLM = Launcher(_command, parallel=True, needs_gpu=True, chunks_prompts_with="--enable_chunked_prefill")
