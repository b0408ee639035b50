# SPDX-License-Identifier: Apache-2.0
"""One process of test_plan: the memory of small models on every rank of some layouts.

torchrun --nproc-per-node=2 plan_against_run.py DIRECTORY LAYOUT …

Writes DIRECTORY/LAYOUT/MODEL-PRECISION/RANK.json: parameters, and bytes of weights, gradient buffers, optimizer,
activations and checkpoint exchange; and the checkpoint itself beside it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from omegaconf import OmegaConf
from planned import (
    ARCHITECTURES,
    LAYOUTS,
    MEASURED,
    ROW_TOKENS,
    LiveBytes,
    each_layout,
    fill,
    preferences,
    storage_bytes,
)

from nemo_mcpo.algorithms.configuration import load_run_config
from nemo_mcpo.config import RunConfig
from nemo_mcpo.models.forward_step import train_trees
from nemo_mcpo.models.gpt import ParallelLayout
from nemo_mcpo.models.megatron_gpt_mcpo_model import DTYPES, MegatronGPTMCPOModel, model_config
from nemo_mcpo.models.sharded_state import save_sharded_state
from nemo_mcpo.objectives import bind_objective
from nemo_mcpo.platform.distributed import is_rank_zero

CONF = Path(__file__).parents[2] / "examples" / "conf"


def main(directory: str, *names: str) -> None:
    for name, layout in each_layout({name: LAYOUTS[name] for name in names}):
        for case in MEASURED[name]:
            out = Path(directory) / name / case
            out.mkdir(parents=True, exist_ok=True)
            model, precision, *compact = case.split("-")
            moments = "bfloat16" if compact else "float32"
            found = measure(out, model, replace(layout, dtype=DTYPES[precision]), precision, moments)
            (out / f"{dist.get_rank()}.json").write_text(json.dumps(found))


def configuration(layout: ParallelLayout, *more: str) -> RunConfig:
    virtual = layout.virtual_pipeline or "null"
    overrides = [
        f"model.tensor_model_parallel_size={layout.tensor}",
        f"model.pipeline_model_parallel_size={layout.pipeline}",
        f"model.virtual_pipeline_model_parallel_size={virtual}",
        f"model.sequence_parallel={str(layout.sequence_parallel).lower()}",
        f"model.micro_batch_tokens={ROW_TOKENS}",
        "model.data.train=none",
        "pretrained_checkpoint.restore_from_path=none",
        *more,
    ]
    return load_run_config(overrides, config_dir=CONF, config_name="tiny_cpu", world_size=dist.get_world_size())


def measure(out: Path, name: str, layout: ParallelLayout, precision: str, moments: str) -> dict[str, object]:
    config = configuration(layout, f"trainer.precision={precision}", f"model.optim.moments_dtype={moments}")
    cfg = model_config(config, ARCHITECTURES[name])
    model = MegatronGPTMCPOModel(OmegaConf.create(cfg))
    parameters = [parameter for chunk in model.chunks for parameter in chunk.parameters()]
    fill(parameters)
    model.setup_training(config, num_steps=10)
    objective = bind_objective("dpo", {}, config.model.mcpo.beta)
    model.prepare_for_training_step()
    live = LiveBytes(parameters)
    batch = preferences()
    live.during(lambda: train_trees(model.wrapped, batch, objective, ROW_TOKENS))
    model.finish_training_step(len(batch.trees))
    buffers = [buffer for chunk in model.wrapped for buffer in chunk.buffers]
    gathered: list[int] = []
    save(model, out / "checkpoint", gathered)
    return {
        "stage": parallel_state.get_pipeline_model_parallel_rank(),
        "data": parallel_state.get_data_parallel_world_size(),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "weights": storage_bytes(parameters),
        "gradients": storage_bytes(buffer.grad_data for buffer in buffers),
        "optimizer": optimizer_bytes(model.optimizer, parameters),
        "activations": live.peak,
        "saving": max(gathered, default=0),
    }


def optimizer_bytes(optimizer, parameters: list) -> int:
    """Return the bytes that the optimizer owns, without the weights and its step counters."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept = []
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        for group in part.optimizer.param_groups:
            for main in group["params"]:
                kept += [main, *(value for key, value in part.optimizer.state[main].items() if key != "step")]
    return storage_bytes(tensor for tensor in kept if tensor.untyped_storage().data_ptr() not in weights)


def save(model: MegatronGPTMCPOModel, directory: Path, gathered: list[int]) -> None:
    """Write a checkpoint; ``gathered`` receives the bytes of every state that is gathered from the replicas."""
    if is_rank_zero():
        directory.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    gather = dist.gather

    def counted(sent: torch.Tensor, received: list | None, *args, **kwargs):
        gathered.append(sum(tensor.nbytes for tensor in received or []) + sent.nbytes)
        return gather(sent, received, *args, **kwargs)

    dist.gather = counted
    try:
        save_sharded_state(model, directory)
    finally:
        dist.gather = gather


if __name__ == "__main__":
    main(*sys.argv[1:])
