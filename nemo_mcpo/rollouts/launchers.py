# SPDX-License-Identifier: Apache-2.0
"""The kinds of servers that we start, in one table: command lines, options in files, and where they run.

A server is another program with a Python environment of its own; nothing of it is imported here. What each of them
understands in a request is found out by asking (``probe.py``); ``docs/servers.md`` says what that is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nemo_mcpo.config import Server

HOST = "127.0.0.1"
TRTLLM_OPTIONS = "trtllm.yaml"


@dataclass(frozen=True, slots=True)
class Launcher:
    """One kind of server; also of servers that somebody else started (``server.urls``).

    Attributes:
        command: program and arguments, from a model's directory, a port, the settings and a directory for files.
        parallel: it spreads a model over several GPUs, and limits batches and lengths as the settings say.
        needs_gpu: it does not run on CPUs.
        loads_by_name: started without a model, it loads whatever directory a request names; ``/v1/models`` lists what
            is loaded so far.
    """

    command: Callable[[str, int, Server, Path], list[str]]
    parallel: bool
    needs_gpu: bool = False
    loads_by_name: bool = False


def trtllm_options(settings: Server) -> dict[str, object]:
    """What ``trtllm-serve`` takes from a file only; a section of it replaces what the flags say about the same.

    Without them it pads no CUDA graph (batches above 32 mostly run without one), keeps room for the longest possible
    answer of each request before it starts one (``GUARANTEED_NO_EVICT``), and since 1.2 refuses prompts above 1,024
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


def trtllm_command(model: str, port: int, settings: Server, files: Path) -> list[str]:
    """``trtllm-serve`` on a Hugging Face directory; an FP8 checkpoint says so itself, in ``hf_quant_config.json``.

    ``--extra_llm_api_options`` is the name in 1.0 and 1.1, and an alias of ``--config`` since.
    """
    path = files / TRTLLM_OPTIONS
    path.write_text(json.dumps(trtllm_options(settings), indent=2) + "\n", encoding="utf-8")  # JSON is YAML
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
    return [*settings.command, model, *_words(options), *settings.arguments]


def vllm_command(model: str, port: int, settings: Server, files: Path) -> list[str]:
    """``vllm serve`` on a Hugging Face directory, under its path and its short name.

    ``--generation-config vllm``: no ``top_k`` or ``top_p`` of the directory's ``generation_config.json`` is a default
    of requests; its end-of-sequence ids still count.
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
    return [*settings.command, "serve", model, *_words(options), *flags, *settings.arguments]


def transformers_command(model: str, port: int, settings: Server, files: Path) -> list[str]:
    """``transformers serve`` (5.23 or later) on a Hugging Face directory."""
    return [*settings.command, "serve", model, *_words({"--host": HOST, "--port": port}), *settings.arguments]


LAUNCHERS: Mapping[str, Launcher] = {
    "trtllm": Launcher(trtllm_command, parallel=True, needs_gpu=True),
    "vllm": Launcher(vllm_command, parallel=True),
    "transformers": Launcher(transformers_command, parallel=False, loads_by_name=True),
}
"""By ``server.launcher``."""


def gpus_of(settings: Server) -> int:
    """GPUs that one server's model is spread over."""
    if not LAUNCHERS[settings.launcher].parallel:
        return 1
    return settings.tensor_parallel_size * settings.pipeline_parallel_size


def _words(options: Mapping[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in (name, str(value))]
