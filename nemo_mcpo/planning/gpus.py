# SPDX-License-Identifier: Apache-2.0
"""Known GPUs: memory and speed, from NVIDIA's data sheets."""

from __future__ import annotations

from dataclasses import dataclass

GPUS_PER_NODE = 8
"""GPUs of a node (DGX, HGX); plans keep tensor parallelism within one."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        gibibytes: memory that a process sees (``torch.cuda.get_device_properties``), in GiB; slightly below nominal.
        bf16_flops, fp32_flops: dense operations per second.
        capability: CUDA compute capability; FP8 needs 8.9.
        host_gbs: bandwidth to host memory in each direction, 10^9 bytes per second; assumed to be 80 % of PCIe's.
    """

    name: str
    gibibytes: float
    bf16_flops: float
    fp32_flops: float
    capability: float
    host_gbs: float

    def peak_flops(self, precision: str) -> float:
        """Return dense operations per second in ``trainer.precision``."""
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
"""SXM modules by their name in ``scripts/plan.py --gpu``; CUDA's device name contains the part before ``-``."""


def peak_flops(device_name: str) -> float | None:
    """Return dense bf16 operations per second of a GPU with this CUDA device name, or None if it is unknown.

    >>> peak_flops("NVIDIA H100 80GB HBM3")
    989000000000000.0
    """
    return next((gpu.bf16_flops for name, gpu in GPUS.items() if name.split("-")[0] in device_name), None)
