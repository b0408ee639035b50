# SPDX-License-Identifier: Apache-2.0
"""Out-of-memory errors that name the part of the work that did not fit, and three remedies for it.

>>> with memory_of("training"):
...     raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
Traceback (most recent call last):
nemo_mcpo.errors.MemoryExhaustedError: training: out of memory (got ...can't allocate memory...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nemo_mcpo.errors import MemoryExhaustedError

_MORE_SLICES = "raise model.tensor_model_parallel_size or model.pipeline_model_parallel_size"
_STATES = (
    "run on more GPUs: the states are split over the replicas",
    _MORE_SLICES,
    "set model.optim.cpu_offload=true",
)
_CHECKPOINT = (
    "raise model.tensor_model_parallel_size",
    "raise model.pipeline_model_parallel_size",
    "end other programs on the GPU (nvidia-smi lists them)",
)
REMEDIES: dict[str, tuple[str, str, str]] = {
    "the model's weights": (
        _MORE_SLICES,
        "set trainer.precision=bf16",
        "end other programs on the GPU (nvidia-smi lists them)",
    ),
    "gradients and optimizer": _STATES,
    "the optimizer in host memory": (
        "request more host memory (sbatch --mem)",
        "set model.optim.moments_dtype=bfloat16",
        "run on more GPUs: the states are split over the replicas",
    ),
    "scoring": (
        "lower model.mcpo.scoring_tokens",
        "set model.mcpo.reuse_scoring=false",
        _MORE_SLICES,
    ),
    "training": (
        "lower model.micro_batch_tokens",
        "set model.activations_checkpoint_granularity=full",
        "raise model.tensor_model_parallel_size, with model.sequence_parallel=true",
    ),
    "the update": _STATES,
    "writing a checkpoint": _CHECKPOINT,
    "reading a checkpoint": _CHECKPOINT,
    "generating answers": (
        "lower rollouts.batch_size",
        "lower rollouts.max_tokens",
        "set rollouts.engine=openai, with servers that split the model",
    ),
    "the reward model": (
        "lower judge.batch_size",
        "choose a smaller judge.reward_model",
        "set judge.kind=openai, with servers that split the model",
    ),
}
"""Part of the work -> what makes it fit."""

_SIGNS = ("CUDA out of memory", "CUDA error: out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Parts of the messages of torch's allocators, CUDA and its libraries."""


@contextmanager
def memory_of(part: str) -> Iterator[None]:
    """Raise MemoryExhaustedError if ``part``, a key of ``REMEDIES``, runs out of memory; also a decorator."""
    remedies = REMEDIES[part]
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is a subclass; the CPU allocator raises RuntimeError
        start = min((at for sign in _SIGNS if (at := str(error).find(sign)) >= 0), default=-1)
        if start < 0:
            raise
        fix = f"{'; or '.join(remedies)}. scripts/plan.py shows what fits"
        raise MemoryExhaustedError("out of memory", where=part, got=_facts(str(error)[start:]), fix=fix) from error


def _facts(message: str) -> str:
    """Return what was requested and what there is, without torch's own advice."""
    for advice in (" If reserved but unallocated", " See documentation", " Compile with", " Error code"):
        message = message.partition(advice)[0]
    return " ".join(message.split()).rstrip(".")
