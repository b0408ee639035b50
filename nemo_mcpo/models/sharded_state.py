# SPDX-License-Identifier: Apache-2.0
"""A model's weights and optimizer as megatron-core's sharded state, which another layout can load.

With torch's Adam (no Apex, no Transformer Engine) two things need care: its states must exist before loading, and the
step counters that loading shares between parameters must be separated again.
"""

from __future__ import annotations

import queue
from functools import partial
from pathlib import Path

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.strategies import filesystem_async
from torch.distributed.checkpoint.api import CheckpointException

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.optimizer import optimizer_parts
from nemo_mcpo.platform.out_of_memory import memory_of
from nemo_mcpo.platform.stopping import shielded_forks


def optimizer_format() -> dict[str, object]:
    """The one sharding of optimizer states that can change tensor, pipeline and data parallelism.

    megatron-core gathers each state whole on the GPU of every replica. A single replica has nothing to gather: there
    it goes to host memory at once. The files are the same.
    """
    alone = parallel_state.get_data_parallel_world_size() == 1
    return {
        "distrib_optim_sharding_type": "fully_reshardable",
        "distrib_optim_fully_reshardable_mem_efficient": alone,
    }


def sharded_state(model, *, is_loading: bool = False) -> dict:
    """megatron-core's sharded state of the weights and, once there is one, the optimizer."""
    state: dict = {}
    for number, chunk in enumerate(model.chunks):
        # The unwrapped chunk: the wrapper would prefix every name.
        state[f"model{number}"] = chunk.sharded_state_dict()
    if model.optimizer is not None:
        weights = state["model0"] if len(model.chunks) == 1 else state.copy()
        state["optimizer"] = model.optimizer.sharded_state_dict(
            weights, is_loading=is_loading, metadata=optimizer_format()
        )
    return state


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
            dist_checkpointing.save(sharded_state(model), str(directory), content_metadata=optimizer_format())
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
        _prepare_torch_adam(model.optimizer)
    try:
        with memory_of("reading a checkpoint"):
            loaded = dist_checkpointing.load(sharded_state(model, is_loading=True), str(path))
    except (CheckpointException, dist_checkpointing.core.CheckpointingException, OSError, RuntimeError) as problem:
        raise CheckpointError(
            "the checkpoint cannot be loaded",
            where=str(path),
            got=_reason(problem),
            cure="remove this directory to continue from the checkpoint before it",
        ) from problem
    for number, chunk in enumerate(model.chunks):
        chunk.load_state_dict(loaded[f"model{number}"], strict=True)
    if model.optimizer is not None:
        model.optimizer.load_state_dict(loaded["optimizer"])
        _separate_adam_steps(model.optimizer)


def _prepare_torch_adam(optimizer) -> None:
    """Allocate the states that loading fills, and let it find the step counter that torch's Adam keeps among them."""
    for part in optimizer_parts(optimizer):
        if not part.optimizer.state:
            part._init_optimizer_states_with_dummy_values()
        part._set_main_param_and_optimizer_states = partial(_set_states_but_step, part)


def _set_states_but_step(part, model_param, tensors: dict) -> None:
    group, order = part.model_param_group_index_map[model_param]
    state = part.optimizer.state[part.optimizer.param_groups[group]["params"][order]]
    # The step was restored from the parameter groups already; megatron-core looks it up among the tensors again.
    with_step = {"step": state["step"], **tensors} if "step" in state else tensors
    type(part)._set_main_param_and_optimizer_states(part, model_param, with_step)


def _separate_adam_steps(optimizer) -> None:
    """torch's Adam keeps a step tensor a parameter; loading makes them one shared tensor, which would then advance
    once for every parameter at each update."""
    for part in optimizer_parts(optimizer):
        for state in part.optimizer.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone()
