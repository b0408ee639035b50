# SPDX-License-Identifier: Apache-2.0
"""Launcher ``vllm``: vLLM's server, on GPUs or CPUs."""

from __future__ import annotations

from pathlib import Path

from nemo_mcpo.config import Server
from nemo_mcpo.rollouts.launchers.launcher import HOST, Launcher, words


def _command(model: str, port: int, settings: Server, files: Path) -> list[str]:
    """``vllm serve`` on a Hugging Face directory, under its path and its short name.

    ``--generation-config vllm``: ``top_k`` and ``top_p`` in the directory's ``generation_config.json`` do not become
    defaults of requests; its end-of-sequence ids still apply.
    """
    options = {
        "--host": HOST,
        "--port": port,
        "--tensor-parallel-size": settings.tensor_parallel_size,
        "--pipeline-parallel-size": settings.pipeline_parallel_size,
        "--max-num-seqs": settings.max_batch_size,
        "--max-num-batched-tokens": settings.max_num_tokens,
        "--max-model-len": settings.max_seq_len,
        "--gpu-memory-utilization": settings.kv_cache_fraction,
        "--kv-cache-dtype": settings.kv_cache_dtype,
        "--generation-config": "vllm",
    }
    names = dict.fromkeys((model, Path(model).name))
    flags = ["--enable-prefix-caching", "--served-model-name", *names]
    return [*settings.command, "serve", model, *words(options), *flags, *settings.arguments]


VLLM = Launcher(_command, parallel=True, fraction_of_all_memory=True)
