# SPDX-License-Identifier: Apache-2.0
"""Fused GPU kernels: which of them this machine has, and what a run uses instead; imports none of them.

megatron-core chooses its Adam itself, in the order of this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mcpo.platform.packages import is_installed
from nemo_mcpo.platform.report import Row

_GPU_INSTALL = "use the NeMo container, which has Transformer Engine and Apex"


@dataclass(frozen=True, slots=True)
class GpuKernel:
    """One fused GPU kernel.

    Attributes:
        providers: module -> name to show; the first installed module is used.
        fallback: what is used if none is installed.
        enables: what the kernel does.
    """

    name: str
    providers: dict[str, str]
    fallback: str
    enables: str


GPU_KERNELS = (
    GpuKernel(
        "Adam", {"transformer_engine": "Transformer Engine", "amp_C": "Apex"}, "torch's", "one pass over all states"
    ),
    GpuKernel(
        "Weight gradients",
        {"fused_weight_gradient_mlp_cuda": "Apex"},
        "added in a second pass",
        "products that add to the float32 gradients",
    ),
    GpuKernel("RMSNorm", {"transformer_engine": "Transformer Engine"}, "torch", "a norm in one pass"),
    GpuKernel("SwiGLU", {"triton": "compiled by torch"}, "torch", "activation and product in one pass"),
    GpuKernel("Rotary embedding", {"triton": "compiled by torch"}, "torch", "queries and keys rotated in one pass"),
    GpuKernel("Log-prob head", {"triton": "compiled by torch"}, "torch", "exponentials and their sums in one pass"),
)


def gpu_kernel_rows(*, on_gpu: bool) -> tuple[Row, ...]:
    """Return a row for every kernel on a GPU; none on a CPU, which uses torch's own operators."""
    rows = []
    for kernel in GPU_KERNELS if on_gpu else ():
        found = next((name for module, name in kernel.providers.items() if is_installed(module)), "")
        fix = "" if found else ("install triton" if "triton" in kernel.providers else _GPU_INSTALL)
        status = "ok" if found else "missing"
        rows.append(Row(kernel.name, status, found or kernel.fallback, kernel.enables, fix=fix))
    return tuple(rows)
