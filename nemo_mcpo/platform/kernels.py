# SPDX-License-Identifier: Apache-2.0
"""Fused kernels: which a run finds on this machine, and what it takes where there are none; nothing is imported.

megatron-core chooses Adam's itself, in the order of this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mcpo.platform.packages import is_installed
from nemo_mcpo.platform.report import Row

_GPU_INSTALL = "use the NeMo container, which has Transformer Engine and Apex"


@dataclass(frozen=True, slots=True)
class Kernel:
    """One fused kernel.

    Attributes:
        providers: module -> what to call it; the first that is installed is taken.
        fallback: what is taken else.
        enables: what it saves.
    """

    name: str
    providers: dict[str, str]
    fallback: str
    enables: str


KERNELS = (
    Kernel(
        "Adam", {"transformer_engine": "Transformer Engine", "amp_C": "Apex"}, "torch's", "one pass over all states"
    ),
    Kernel(
        "Weight gradients",
        {"fused_weight_gradient_mlp_cuda": "Apex"},
        "added in a second pass",
        "products that add to the float32 gradients",
    ),
    Kernel("RMSNorm", {"transformer_engine": "Transformer Engine"}, "torch", "a norm in one pass"),
    Kernel("SwiGLU", {"triton": "compiled by torch"}, "torch", "activation and product in one pass"),
    Kernel("Rotary embedding", {"triton": "compiled by torch"}, "torch", "queries and keys turned in one pass"),
    Kernel("Log-prob head", {"triton": "compiled by torch"}, "torch", "exponentials and their sums in one pass"),
)


def kernel_rows(*, on_gpu: bool) -> tuple[Row, ...]:
    """A row for every kernel on a GPU; none on a CPU, where torch's own operators are taken."""
    rows = []
    for kernel in KERNELS if on_gpu else ():
        found = next((name for module, name in kernel.providers.items() if is_installed(module)), "")
        fix = "" if found else ("install triton" if "triton" in kernel.providers else _GPU_INSTALL)
        status = "ok" if found else "missing"
        rows.append(Row(kernel.name, status, found or kernel.fallback, kernel.enables, fix=fix))
    return tuple(rows)
