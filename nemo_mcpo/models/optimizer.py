# SPDX-License-Identifier: Apache-2.0
"""AdamW with states sharded over data-parallel ranks, and the learning-rate schedule, both from megatron-core."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, clip_grads, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer.module import Float16Module
from megatron.core.utils import local_multi_tensor_l2_norm
from torch import Tensor

from nemo_mcpo.config import Optim
from nemo_mcpo.models.adam import CompactAdamW
from nemo_mcpo.models.state_exchange import exchange_in_pieces

DECAY_STYLES = {
    "constant": "constant",
    "CosineAnnealing": "cosine",
    "LinearAnnealing": "linear",
    "InverseSquareRootAnnealing": "inverse-square-root",
}
"""NeMo's name (``model.optim.sched.name``) -> megatron-core's name."""


def wrap_for_training(chunks: list, *, bf16: bool) -> list[DistributedDataParallel]:
    """Give model chunks gradient buffers; in bf16, also cast inputs and outputs as megatron-core expects."""
    config = chunks[0].config
    ddp = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    return [
        DistributedDataParallel(
            config, ddp, Float16Module(config, chunk) if bf16 else chunk, disable_bucketing=number > 0
        )
        for number, chunk in enumerate(chunks)
    ]


def finish_gradients(wrapped: list, num_prompts: int) -> None:
    """Sum the gradients over ranks and divide by the step's number of prompts. Every rank calls this once per step.

    megatron-core's schedule would do this at its end, but a step may run several schedules.
    """
    finalize_model_grads(wrapped)
    for chunk in wrapped:
        chunk.scale_gradients(1.0 / num_prompts)


def build_optimizer(optim: Optim, wrapped: list, *, bf16: bool, clip: float) -> MegatronOptimizer:
    """Build the optimizer; ``clip`` is the largest gradient norm, 0 for no clipping."""
    config = OptimizerConfig(
        optimizer="adam",
        lr=optim.lr,
        min_lr=optim.sched.min_lr,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.betas[0],
        adam_beta2=optim.betas[1],
        adam_eps=optim.eps,
        decoupled_weight_decay=True,
        clip_grad=clip,
        bf16=bf16,
        params_dtype=torch.bfloat16 if bf16 else torch.float32,
        use_distributed_optimizer=True,
    )
    # Lets the optimizer own the float32 weights. megatron-core derives this from use_precision_aware_optimizer, but
    # accepts that only with Transformer Engine.
    config.use_precision_aware_optimizer_no_fp8_or_ds_fp8 = optim.is_compact
    install_exact_norm()
    optimizer = get_megatron_optimizer(config, wrapped)
    for part in optimizer_parts(optimizer):
        exchange_in_pieces(part)
        if optim.is_compact:
            groups, moments = part.optimizer.param_groups, getattr(torch, optim.moments_dtype)
            part.optimizer = CompactAdamW(groups, moments=moments, on_host=optim.cpu_offload)
    if torch.cuda.is_available():
        fuse_torch_adam(optimizer)
    wrapped[0].config.grad_scale_func = optimizer.scale_loss
    return optimizer


def install_exact_norm() -> None:
    """Make megatron-core clip gradients by ``exact_norm``, unless Transformer Engine or Apex provides the norm."""
    if clip_grads.l2_norm_impl is local_multi_tensor_l2_norm:
        clip_grads.l2_norm_impl = exact_norm


def exact_norm(chunk_size: int, noop_flag: Tensor, tensor_lists: list[list[Tensor]], *args) -> tuple[Tensor, None]:
    """Return the norm of all tensors together, float32 ``[1]`` on their device; the signature is Apex's.

    megatron-core's own norm adds up in float32, which over millions of numbers is off by 1e-4, and by a different
    amount for every way to split the tensors between ranks. It also copies the norm of every tensor to the host, which
    waits for the GPU each time.
    """
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensors in tensor_lists for tensor in tensors]
    return torch.linalg.vector_norm(torch.stack(norms)).float().reshape(1), None


def fuse_torch_adam(optimizer: MegatronOptimizer) -> None:
    """Make torch's Adam, the fallback without Transformer Engine and Apex, run as one GPU kernel.

    megatron-core does not request this. Call it before the first update, which creates the states.
    """
    for part in optimizer_parts(optimizer):
        if isinstance(part.optimizer, torch.optim.Adam | torch.optim.AdamW):
            for group in part.optimizer.param_groups:
                group.update(fused=True, foreach=False)


def optimizer_parts(optimizer: Any) -> list:
    """Return megatron-core's optimizers: one, or the several of a chain."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def build_schedule(optim: Optim, optimizer: MegatronOptimizer, num_steps: int) -> OptimizerParamScheduler:
    """Build the learning-rate schedule of ``num_steps`` updates.

    Call ``step(1)`` before each update, so that warm-up does not start with a rate of 0.
    """
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=optim.lr,
        min_lr=optim.sched.min_lr,
        lr_warmup_steps=optim.sched.warmup_steps,
        lr_decay_steps=max(num_steps, optim.sched.warmup_steps + 1),
        lr_decay_style=DECAY_STYLES[optim.sched.name],
        start_wd=optim.weight_decay,
        end_wd=optim.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )
