# SPDX-License-Identifier: Apache-2.0
"""AdamW for small GPUs: moments in bfloat16, or states in host memory between updates, or both.

The update is torch's (``torch.optim.adamw``), applied to a few million elements at a time. Their states are copied to
the GPU in float32, and written back in the dtype and place where they are kept. With float32 moments the result equals
torch's AdamW bit for bit, on the host and on the GPU.

Moments in bfloat16 are rounded up or down at random, with probabilities that make the mean exact. Rounded to nearest,
a second moment with β₂ = 0.999 would stop changing: its relative change per update, 0.1 %, is less than half a unit in
the last place.

megatron-core's DistributedOptimizer treats it like Transformer Engine's precision-aware Adam: the optimizer owns the
float32 weights (``master_param``), and gradients arrive as ``decoupled_grad``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from nemo_mcpo.models.budgets import ELEMENTS_PER_UPDATE
from nemo_mcpo.platform.out_of_memory import memory_of
from nemo_mcpo.platform.transfer import sent

MOMENTS = ("exp_avg", "exp_avg_sq")


class CompactAdamW(torch.optim.Optimizer):
    """AdamW that takes over the parameter groups of the optimizer that megatron-core built."""

    def __init__(self, param_groups: list[dict[str, Any]], *, moments: torch.dtype, on_host: bool) -> None:
        # torch rejects views as parameters, but megatron-core's shards of float32 weights are views: the groups are
        # assigned after a constructor call without them.
        super().__init__([torch.empty(0)], defaults={})
        self.param_groups = param_groups
        self.moments = moments
        self.on_host = on_host
        for group in param_groups:
            for parameter in group["params"]:
                self.state[parameter] = self._initial(parameter.detach())

    def _initial(self, weights: Tensor) -> dict[str, Tensor]:
        state = {name: self._zeros(weights, self.moments) for name in MOMENTS}
        is_exact = weights.dtype == torch.float32
        state["master_param"] = weights if is_exact else self._zeros(weights, torch.float32).copy_(weights)
        return state

    def _zeros(self, weights: Tensor, dtype: torch.dtype) -> Tensor:
        """Allocate a state where it is kept; host memory is pinned, so that copies run at full speed."""
        if not (self.on_host and weights.is_cuda):
            return torch.zeros_like(weights, dtype=dtype)
        with memory_of("the optimizer in host memory"):
            return torch.zeros(weights.shape, dtype=dtype, pin_memory=True)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. All parameters are on one device."""
        generator: torch.Generator | None = None
        for group in self.param_groups:
            group["step"] = int(group.get("step", 0)) + 1
            for parameter in group["params"]:
                gradient = getattr(parameter, "decoupled_grad", None)
                if gradient is None:
                    continue
                # Seeded by the step alone, so that a resumed run rounds like the uninterrupted one, and both copies of
                # an embedding that two pipeline stages share stay equal.
                generator = (generator or torch.Generator(parameter.device)).manual_seed(group["step"])
                states = (self.state[parameter][name] for name in ("master_param", *MOMENTS))
                pieces = (tensor.view(-1).split(ELEMENTS_PER_UPDATE) for tensor in (parameter, gradient, *states))
                for weights, of_loss, *kept in zip(*pieces, strict=True):
                    _update(group, weights, of_loss, kept, generator)
        if self.on_host and torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()  # the host may read the states next, outside the stream

    def get_unscaled_state(self, parameter: Tensor, name: str) -> Tensor:
        """Return a state as it is kept. Checkpoints, which hold float32, are written from it and read into it."""
        return self.state[parameter][name]

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state dict plus the step count in each state, where megatron-core expects Adam to keep it."""
        saved = super().state_dict()
        step = torch.tensor(float(self.param_groups[0].get("step", 0)))
        saved["state"] = {number: state | {"step": step} for number, state in saved["state"].items()}
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the groups' hyperparameters only; megatron-core fills the states one by one."""
        for group, loaded in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({key: value for key, value in loaded.items() if key != "params"})


def _update(
    group: dict[str, Any], weights: Tensor, gradient: Tensor, states: list[Tensor], generator: torch.Generator
) -> None:
    """Update one chunk of a parameter: copy its states to the weights' device in float32, step, and copy them back."""
    device = weights.device
    master, mean, square = (sent(state, device).float() for state in states)
    adamw(
        [master],
        [gradient.float()],
        [mean],
        [square],
        [],
        [torch.full((), float(group["step"] - 1), dtype=torch.float32, device=device)],
        fused=True if weights.is_cuda else None,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
    for kept, value in zip(states, (master, mean, square), strict=True):
        if value is not kept:
            is_exact = kept.dtype == torch.float32
            kept.copy_(value if is_exact else round_stochastically(value, generator), non_blocking=True)
    if weights.dtype != torch.float32:  # float32 weights are the master weights
        weights.copy_(master)


def round_stochastically(values: Tensor, generator: torch.Generator) -> Tensor:
    """Round float32 to bfloat16, up or down at random so that the mean is exact; representable values are unchanged.

    A float32 has 16 more bits than a bfloat16: a random 16-bit number is added before they are cut off.
    """
    noise = torch.randint(0, 1 << 16, values.shape, generator=generator, device=values.device, dtype=torch.int32)
    bits = values.view(torch.int32) + noise
    return (bits & -(1 << 16)).view(torch.float32).to(torch.bfloat16)
