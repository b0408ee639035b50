# SPDX-License-Identifier: Apache-2.0
"""Whether a model fits its server's GPUs: attention heads, lengths, weights, and a KV cache of useful size.

With tensor parallelism t and pipeline parallelism p, each GPU holds

    weights / (t p)  +  2 (layers / p) (kv_heads / t) head_dim · bytes · tokens  +  RESERVED_GIB

bytes. The cache must hold at least one request of maximum length.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mcpo.config import Server
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.rollouts.launchers import gpus_of, launcher_of
from nemo_mcpo.rollouts.served_model import ServedModel

GIB = 2**30
RESERVED_GIB = 3.0
"""GPU memory for the CUDA context, activations and CUDA graphs: an assumption, on the low side."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where servers will run.

    Attributes:
        gpus: number of GPUs per node.
        gibibytes: memory of the smallest GPU; None if unknown.
        is_here: whether it is this machine, so that its programs can be checked.
    """

    gpus: int
    gibibytes: float | None
    is_here: bool


def check_layout(settings: Server, model: ServedModel, section: str) -> None:
    """Raise ConfigError if the model does not support the layout or the length."""
    tensor, pipeline = settings.tensor_parallel_size, settings.pipeline_parallel_size
    if model.heads % tensor or (model.kv_heads % tensor and tensor % model.kv_heads):
        raise ConfigError(
            "the attention heads do not divide evenly",
            where=f"{section}.tensor_parallel_size",
            got=tensor,
            expected=f"a divisor of {model.heads} heads, and a divisor or multiple of {model.kv_heads} KV heads",
            fix="use 1, 2, 4 or 8",
        )
    if pipeline > model.layers:
        raise ConfigError(
            "more pipeline stages than layers",
            where=f"{section}.pipeline_parallel_size",
            got=pipeline,
            expected=f"at most {model.layers}",
            fix="lower it",
        )
    if model.max_positions is not None and settings.max_seq_len > model.max_positions:
        raise ConfigError(
            "longer than the model's maximum sequence length",
            where=f"{section}.max_seq_len",
            got=settings.max_seq_len,
            expected=f"at most {model.max_positions}, its max_position_embeddings",
            fix="lower it, or use another model",
        )


def check_prompts(settings: Server, longest_prompt: int, section: str) -> None:
    """Raise ConfigError if the server would refuse a prompt because it must fit into one step."""
    flag = launcher_of(settings).chunks_prompts_with
    if flag and flag not in settings.arguments and longest_prompt > settings.max_num_tokens:
        raise ConfigError(
            "a prompt may not fit into one step of the server",
            where=f"{section}.max_num_tokens",
            got=settings.max_num_tokens,
            expected=f"at least {longest_prompt}",
            fix=f"raise it, or add {flag} to {section}.arguments",
        )


def check_memory(settings: Server, model: ServedModel, gibibytes: float, section: str) -> str:
    """Describe what a GPU holds; raise ConfigError if there is no room for the cache of one request."""
    room, weights = cache_room(settings, model, gibibytes), model.weights / gpus_of(settings) / GIB
    requests = room / (cache_bytes_per_token(settings, model) * settings.max_seq_len / GIB)
    facts = f"{weights:.1f} GiB of weights per GPU of {gibibytes:.0f} GiB"
    if requests < 1:
        raise ConfigError(
            "the model and the cache of one request do not fit",
            where=section,
            got=f"{facts}, {max(room, 0.0):.1f} GiB for the cache",
            expected=f"{cache_bytes_per_token(settings, model) * settings.max_seq_len / GIB:.1f} GiB of cache",
            fix=f"{_more_gpus(settings, model, gibibytes, section)}, or lower {section}.max_seq_len",
        )
    return f"{section}: {facts}, and cache for {requests:.0f} requests of {settings.max_seq_len} tokens"


def cache_room(settings: Server, model: ServedModel, gibibytes: float) -> float:
    """GiB of each GPU that are left for the KV cache."""
    weights = model.weights / gpus_of(settings) / GIB
    if launcher_of(settings).fraction_of_all_memory:
        return gibibytes * settings.kv_cache_fraction - weights - RESERVED_GIB
    return (gibibytes - weights - RESERVED_GIB) * settings.kv_cache_fraction


def cache_bytes_per_token(settings: Server, model: ServedModel) -> int:
    """Return the bytes per token in the KV cache of one GPU; all of them if the launcher cannot split a model."""
    parallel = launcher_of(settings).parallel
    tensor, pipeline = (settings.tensor_parallel_size, settings.pipeline_parallel_size) if parallel else (1, 1)
    return model.cache_bytes(tensor, pipeline, 1 if settings.kv_cache_dtype == "fp8" else None)


def _more_gpus(settings: Server, model: ServedModel, gibibytes: float, section: str) -> str:
    """The fix, with the smallest tensor-parallel size that is sufficient."""
    if not launcher_of(settings).parallel:
        return "choose server/vllm or server/trtllm, which spread a model over GPUs"
    for tensor in (2, 4, 8, 16):
        wider = settings.model_copy(update={"tensor_parallel_size": tensor})
        needed = cache_bytes_per_token(wider, model) * settings.max_seq_len / GIB
        if model.heads % tensor == 0 and cache_room(wider, model, gibibytes) >= needed:
            return f"raise {section}.tensor_parallel_size to {tensor}"
    return f"raise {section}.tensor_parallel_size"
