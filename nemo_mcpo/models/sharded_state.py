# SPDX-License-Identifier: Apache-2.0
"""A model's weights and optimizer as megatron-core's sharded state, which another layout can load.

With torch's Adam (no Apex, no Transformer Engine) two things need care: its states must exist before loading, and the
step counters that loading shares between parameters must be separated again.
"""

from __future__ import annotations

import queue
from pathlib import Path

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace, nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.dist_checkpointing.strategies import filesystem_async
from torch.distributed.checkpoint.api import CheckpointException

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.optimizer import optimizer_parts
from nemo_mcpo.platform.out_of_memory import memory_of
from nemo_mcpo.platform.stopping import shielded_forks

OPTIMIZER_FORMAT = {
    "distrib_optim_sharding_type": "fully_reshardable",
    "distrib_optim_fully_reshardable_mem_efficient": True,
}
"""The one sharding of states that can change tensor, pipeline and data parallelism; one replica writes."""


def sharded_state(model, *, is_loading: bool = False) -> dict:
    """megatron-core's sharded state of the weights and, once there is one, the optimizer."""
    state: dict = {}
    for number, chunk in enumerate(model.chunks):
        # The unwrapped chunk: the wrapper would prefix every name.
        state[f"model{number}"] = chunk.sharded_state_dict()
    if model.optimizer is not None:
        weights = state["model0"] if len(model.chunks) == 1 else state.copy()
        state["optimizer"] = model.optimizer.sharded_state_dict(
            weights, is_loading=is_loading, metadata=OPTIMIZER_FORMAT
        )
        if state["optimizer"]["param_state"] is None:  # else megatron-core warns that replicas differ
            del state["optimizer"]["param_state"]
        if not is_loading:
            dict_list_map_inplace(_built, state["optimizer"])
    return state


def _built(value: object) -> object:
    """Parts of a tensor with memory of their own; of views megatron-core would make copies of all before it writes."""
    if not isinstance(value, ShardedTensorFactory):
        return value
    parts = value.build()
    for part in nested_values(parts):
        part.data = part.data.clone()
    return parts


def save_sharded_state(model, directory: Path) -> None:
    """Write weights and optimizer into an empty directory; every rank calls it.

    Raises:
        OSError: the disk is full or not writable, on this or on another rank.
        MemoryExhaustedError: the states do not fit into memory.
    """
    # Results cross processes only in asynchronous saves, for which megatron-core spawns a server process: seconds to
    # start, and left behind when this process is killed. Ours are synchronous.
    filesystem_async._results_queue = filesystem_async._results_queue or queue.SimpleQueue()
    try:
        with memory_of("writing a checkpoint"), shielded_forks():
            dist_checkpointing.save(sharded_state(model), str(directory), content_metadata=OPTIMIZER_FORMAT)
    except (CheckpointException, dist_checkpointing.core.CheckpointingException, RuntimeError) as problem:
        raise OSError(_reason(problem)) from problem


def _reason(problem: BaseException) -> str:
    """The errors of the ranks that failed, where torch tells (on rank 0), else the error itself."""
    failures = getattr(problem, "failures", None)
    if failures is None:
        return str(problem)
    # torch's archive writer reports a full disk by where it stopped writing.
    return "; ".join(f"{error} (is the disk full?)" for error, _ in failures.values())


def load_sharded_state(model, path: Path) -> None:
    """Fill the model's weights and, when it has one, the optimizer from a checkpoint."""
    if model.optimizer is not None:
        _allocate_states(model.optimizer)
    try:
        with memory_of("reading a checkpoint"):
            loaded = dist_checkpointing.load(sharded_state(model, is_loading=True), str(path))
    except (CheckpointException, dist_checkpointing.core.CheckpointingException, OSError, RuntimeError) as problem:
        raise CheckpointError(
            "the checkpoint cannot be loaded",
            where=str(path),
            got=_reason(problem),
            fix="remove this directory to continue from the checkpoint before it",
        ) from problem
    for number, chunk in enumerate(model.chunks):
        chunk.load_state_dict(loaded[f"model{number}"], strict=True)
    if model.optimizer is not None:
        loaded["optimizer"].setdefault("param_state", None)  # only the first replica has read any
        _keep_kernels(model.optimizer, loaded["optimizer"]["optimizer"]["param_groups"])
        model.optimizer.load_state_dict(loaded["optimizer"])
        _separate_adam_steps(model.optimizer)


def _allocate_states(optimizer) -> None:
    """Loading fills them."""
    for part in optimizer_parts(optimizer):
        if not part.optimizer.state:
            part._init_optimizer_states_with_dummy_values()


def _keep_kernels(optimizer, param_groups: list[dict]) -> None:
    """torch's Adam takes its implementation from a checkpoint, which another machine, or another Adam, has written."""
    now = optimizer_parts(optimizer)[0].optimizer.param_groups[0]
    for group in param_groups:
        group |= {key: now[key] for key in ("fused", "foreach") if key in now}


def _separate_adam_steps(optimizer) -> None:
    """torch's Adam keeps a step tensor a parameter; loading makes them one shared tensor, which would then advance
    once for every parameter at each update."""
    for part in optimizer_parts(optimizer):
        for state in part.optimizer.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone()
