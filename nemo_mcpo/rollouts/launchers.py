# SPDX-License-Identifier: Apache-2.0
"""Command lines and environments of servers that we start: TensorRT-LLM's and transformers'.

A server is another program with a Python environment of its own; nothing of it is imported here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from nemo_mcpo.config import Server
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.platform.accelerator import count_gpus

HOST = "127.0.0.1"
_MPI = re.compile(r"^(PMI|PMIX|MPI|OMPI)_|^(RANK|LOCAL_RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT)$")
_LAUNCHED = re.compile(rf"{_MPI.pattern}|^SLURM_")


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


def server_environment(settings: Server, replica: int) -> dict[str, str]:
    """This process's environment for one of several replicas, each on GPUs of its own.

    What a launcher of parallel programs left there is taken out: it hangs TensorRT-LLM. A server over several nodes is
    started by ``srun``, which needs the job's variables and chooses the GPUs.

    Raises:
        ConfigError: too few GPUs.
    """
    several_nodes = settings.command[0] == "srun"
    unwanted = _MPI if several_nodes else _LAUNCHED
    environment = {name: value for name, value in os.environ.items() if not unwanted.match(name)}
    number = count_gpus()
    size = 1 if settings.launcher != "trtllm" else settings.tensor_parallel_size * settings.pipeline_parallel_size
    if several_nodes or (settings.launcher != "trtllm" and not number):
        return environment
    if number < (replica + 1) * size:
        raise ConfigError(
            "too few GPUs for the servers",
            where="server.replicas",
            got=f"{settings.replicas} of {size}",
            expected=f"{number} GPUs at most",
            cure="lower server.replicas or server.tensor_parallel_size",
        )
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(one) for one in range(number)] if seen is None else seen.split(",")
    return environment | {"CUDA_VISIBLE_DEVICES": ",".join(names[replica * size : (replica + 1) * size])}


def _words(options: Mapping[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in (name, str(value))]
