# SPDX-License-Identifier: Apache-2.0
"""The GPUs that are known: memory and speed, by NVIDIA's data sheets."""

from __future__ import annotations

from dataclasses import dataclass

GPUS_PER_NODE = 8
"""Of the machines that are planned for (DGX, HGX): tensor parallelism stays inside of one."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        gibibytes: memory that a process sees (``torch.cuda.get_device_properties``), in GiB; a little less than sold.
        bf16_flops, fp32_flops: dense operations a second.
        capability: of CUDA; FP8 needs 8.9.
        host_gbs: bandwidth to host memory, each way, 10^9 bytes a second; assumed: 80 % of its PCIe's.
    """

    name: str
    gibibytes: float
    bf16_flops: float
    fp32_flops: float
    capability: float
    host_gbs: float

    def peak_flops(self, precision: str) -> float:
        """Dense operations a second in ``trainer.precision``."""
        return {"bf16": self.bf16_flops, "32": self.fp32_flops}[precision]


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40", 39.4, 312e12, 19.5e12, 8.0, 25),
        Gpu("A100-80", 79.1, 312e12, 19.5e12, 8.0, 25),
        Gpu("H100", 79.1, 989e12, 67e12, 9.0, 50),
        Gpu("H200", 139.7, 989e12, 67e12, 9.0, 50),
        Gpu("B200", 178.3, 2250e12, 75e12, 10.0, 50),
    )
}
"""SXM modules, by the name that ``scripts/plan.py --gpu`` takes; before ``-`` it is a part of CUDA's device name."""


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 operations a second of a GPU by CUDA's name of it, or None.

    >>> peak_flops("NVIDIA H100 80GB HBM3")
    989000000000000.0
    """
    return next((gpu.bf16_flops for name, gpu in GPUS.items() if name.split("-")[0] in device_name), None)
