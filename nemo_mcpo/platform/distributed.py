# SPDX-License-Identifier: Apache-2.0
"""Process groups: one call sets up torch.distributed and megatron-core's parallel state, on CPU or GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

from nemo_mcpo.platform.command import FailedElsewhere, world_size_from_environment
from nemo_mcpo.platform.cpu import install_cpu_adapter
from nemo_mcpo.platform.hang_watch import HangWatch, watch_for_hangs
from nemo_mcpo.platform.stopping import StoppedEarly, StopRequest

Value = TypeVar("Value")
_TIME_TO_REPORT = timedelta(minutes=2)
"""Added to the timeout after which NCCL ends a process: the hang watch, which knows more, reports before that."""
_watches: list[HangWatch] = []


def local_device() -> torch.device:
    """Return the device of this process: its GPU if CUDA is available, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def initialize_parallel(
    *,
    tensor_parallel: int,
    pipeline_parallel: int,
    virtual_pipeline_parallel: int | None,
    seed: int,
    timeout: timedelta = timedelta(minutes=30),
) -> None:
    """Set up the CPU adapter, the process group (nccl or gloo) and megatron-core's groups; call it once per process.

    Args:
        timeout: how long a rank may wait for others before the launch ends.
    """
    install_cpu_adapter()
    from megatron.core import parallel_state, tensor_parallel as megatron_tensor_parallel

    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if world_size_from_environment() > 1:
            dist.init_process_group(backend, timeout=timeout + _TIME_TO_REPORT)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        if (watch := watch_for_hangs(timeout)) is not None:
            _watches.append(watch)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tensor_parallel,
        pipeline_model_parallel_size=pipeline_parallel,
        distributed_timeout_minutes=(timeout + _TIME_TO_REPORT).total_seconds() / 60,
        virtual_pipeline_model_parallel_size=virtual_pipeline_parallel,
    )
    megatron_tensor_parallel.model_parallel_cuda_manual_seed(seed)


def shut_down() -> None:
    """Undo ``initialize_parallel``, so that a process can exit without a warning or start again."""
    from megatron.core import parallel_state

    while _watches:
        _watches.pop().stop()
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def is_rank_zero() -> bool:
    """Return True on the one process that writes files and talks to the user."""
    return not dist.is_initialized() or dist.get_rank() == 0


def on_rank_zero(call: Callable[[], Value]) -> Value:
    """Call on rank 0 and return its value on every rank; if the call fails, every rank exits.

    The other ranks exit silently (``FailedElsewhere``), since rank 0 reports the error.
    """
    outcome: list = [None, None]
    problem: Exception | None = None
    if is_rank_zero():
        try:
            outcome = [call(), None]
        except Exception as error:
            problem, outcome = error, [None, getattr(error, "exit_code", 1)]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(outcome)
    if problem is not None:
        raise problem
    value, exit_code = outcome
    if exit_code is not None:
        raise FailedElsewhere(exit_code)
    return value


def agreed_reason(stop: StopRequest, needed_seconds: float = 0.0) -> str | None:
    """Return why all processes stop here, or None; a request to one of them is enough. Call it on all processes."""
    own = stop.reason(needed_seconds)
    return (own or "another process was asked to stop") if any_rank(own is not None) else None


def leave_together(reason: str) -> NoReturn:
    """Raise StoppedEarly once all processes have called this, since the first to exit may take the others down."""
    if dist.is_initialized():
        dist.barrier()
    raise StoppedEarly(reason)


def any_rank(flag: bool) -> bool:
    """Return True on every process if ``flag`` is true on at least one. Call it on all processes."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flag
    flags = torch.full((1,), float(flag), device=local_device())
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags.item())
