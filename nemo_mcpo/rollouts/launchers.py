# SPDX-License-Identifier: Apache-2.0
"""Command lines and environments of servers that we start: TensorRT-LLM's and transformers'.

A server is another program with a Python environment of its own; nothing of it is imported here.

>>> trtllm_command(["trtllm-serve"], "/policy", 8000, settings)[:4]        # doctest: +SKIP
['trtllm-serve', '/policy', '--host', '127.0.0.1']
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nemo_mcpo.config import Server

HOST = "127.0.0.1"
_LAUNCHER_VARIABLES = re.compile(r"^(PMI|PMIX|MPI|OMPI|SLURM)_|^(RANK|LOCAL_RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT)$")


def trtllm_command(model: str, port: int, settings: Server) -> list[str]:
    """``trtllm-serve`` on a Hugging Face directory; an FP8 checkpoint says so itself, in ``hf_quant_config.json``.

    Over several nodes, ``server.command`` is ``srun --mpi=pmix … trtllm-llmapi-launch trtllm-serve``.
    """
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
    }
    return [*settings.command, model, *_words(options), *settings.arguments]


def trtllm_files(directory: Path, settings: Server) -> list[str]:
    """Options that stand in a file: the precision of the KV cache; its section there replaces that of the flags."""
    if settings.kv_cache_dtype == "auto":
        return []
    cache = {"dtype": settings.kv_cache_dtype, "free_gpu_memory_fraction": settings.kv_cache_fraction}
    path = directory / "trtllm.yaml"
    path.write_text(json.dumps({"kv_cache_config": cache}) + "\n")  # JSON is YAML
    return ["--extra_llm_api_options", str(path)]


def transformers_command(model: str, port: int, settings: Server) -> list[str]:
    """``transformers serve`` (5.23 or later) on a Hugging Face directory."""
    return [*settings.command, "serve", model, *_words({"--host": HOST, "--port": port}), *settings.arguments]


COMMANDS: Mapping[str, Callable[..., list[str]]] = {
    "trtllm": trtllm_command,
    "transformers": transformers_command,
}
"""Functions of ``(model, port, settings)``."""


def server_environment(gpus: Sequence[int] | None) -> dict[str, str]:
    """This process's environment without what a launcher of parallel programs put there: it hangs TensorRT-LLM.

    ``gpus``: the only ones that the server sees, of those that this process sees; None leaves that alone.
    """
    environment = {name: value for name, value in os.environ.items() if not _LAUNCHER_VARIABLES.match(name)}
    if gpus is not None:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = seen.split(",") if seen else [str(number) for number in range(max(gpus) + 1)]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(names[number] for number in gpus)
    return environment


def _words(options: Mapping[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in (name, str(value))]
