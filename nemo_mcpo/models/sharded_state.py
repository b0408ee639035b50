# SPDX-License-Identifier: Apache-2.0
"""Saves and loads weights and optimizer as megatron-core's sharded state, which any other layout can load.

torch's Adam (without Apex and Transformer Engine) needs two workarounds: its states must exist before loading, and
the step counters, which loading shares between parameters, must be separated again.
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
"""The only format that can be loaded under any tensor, pipeline and data parallelism; one replica writes it."""


def sharded_state(model, *, is_loading: bool = False) -> dict:
    """Return megatron-core's sharded state of the weights and of the optimizer, if there is one."""
    state: dict = {}
    for number, chunk in enumerate(model.chunks):
        # The unwrapped chunk, because the wrapper would prefix every name.
        state[f"model{number}"] = chunk.sharded_state_dict()
    if model.optimizer is not None:
        weights = state["model0"] if len(model.chunks) == 1 else state.copy()
        state["optimizer"] = model.optimizer.sharded_state_dict(
            weights, is_loading=is_loading, metadata=OPTIMIZER_FORMAT
        )
        if state["optimizer"]["param_state"] is None:  # avoids a warning that replicas differ
            del state["optimizer"]["param_state"]
        if not is_loading:
            dict_list_map_inplace(_built, state["optimizer"])
    return state


def _built(value: object) -> object:
    """Build a factory's tensors with their own memory; megatron-core would copy all views at once before writing."""
    if not isinstance(value, ShardedTensorFactory):
        return value
    parts = value.build()
    for part in nested_values(parts):
        part.data = part.data.clone()
    return parts


def save_sharded_state(model, directory: Path) -> None:
    """Write weights and optimizer into an empty directory. Every rank calls this.

    Raises:
        OSError: the disk is full or not writable, on this rank or another.
        MemoryExhaustedError: the states do not fit into memory.
    """
    # For its results queue megatron-core spawns a server process, which takes seconds to start and survives when this
    # process is killed. Only asynchronous saves need it.
    filesystem_async._results_queue = filesystem_async._results_queue or queue.SimpleQueue()
    try:
        with memory_of("writing a checkpoint"), shielded_forks():
            dist_checkpointing.save(sharded_state(model), str(directory), content_metadata=OPTIMIZER_FORMAT)
    except (CheckpointException, dist_checkpointing.core.CheckpointingException, RuntimeError) as problem:
        raise OSError(_reason(problem)) from problem


def _reason(problem: BaseException) -> str:
    """Return the errors of the ranks that failed, which torch reports on rank 0; elsewhere the error itself."""
    failures = getattr(problem, "failures", None)
    if failures is None:
        return str(problem)
    # torch's archive writer does not name a full disk, only the position where writing stopped.
    return "; ".join(f"{error} (is the disk full?)" for error, _ in failures.values())


def load_sharded_state(model, path: Path) -> None:
    """Load the model's weights and its optimizer, if it has one, from a checkpoint."""
    if model.optimizer is not None:
        for part in optimizer_parts(model.optimizer):  # create the states that loading fills
            if not part.optimizer.state:
                part._init_optimizer_states_with_dummy_values()
    try:
        with memory_of("reading a checkpoint"):
            loaded = dist_checkpointing.load(sharded_state(model, is_loading=True), str(path))
    except (CheckpointException, dist_checkpointing.core.CheckpointingException, OSError, RuntimeError) as problem:
        raise CheckpointError(
            "cannot load the checkpoint",
            where=str(path),
            got=_reason(problem),
            fix="delete this directory to continue from the previous checkpoint",
        ) from problem
    for number, chunk in enumerate(model.chunks):
        chunk.load_state_dict(loaded[f"model{number}"], strict=True)
    if model.optimizer is not None:
        loaded["optimizer"].setdefault("param_state", None)  # only the first replica reads it
        _keep_implementation(model.optimizer, loaded["optimizer"]["optimizer"]["param_groups"])
        model.optimizer.load_state_dict(loaded["optimizer"])
        _separate_adam_steps(model.optimizer)


def _keep_implementation(optimizer, param_groups: list[dict]) -> None:
    """Keep this run's implementation of Adam; torch would take that of the run that wrote the checkpoint."""
    now = optimizer_parts(optimizer)[0].optimizer.param_groups[0]
    for group in param_groups:
        group |= {key: now[key] for key in ("fused", "foreach") if key in now}


def _separate_adam_steps(optimizer) -> None:
    """Give every parameter its own step tensor again.

    Loading makes them one shared tensor, which each update would advance once per parameter.
    """
    for part in optimizer_parts(optimizer):
        for state in part.optimizer.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone()
