# SPDX-License-Identifier: Apache-2.0
"""``trainer.accelerator``: which device a run uses."""

from __future__ import annotations

import os
from pathlib import Path

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.platform.doctor import FP8_CAPABILITY, query_gpus


def select_accelerator(name: str) -> None:
    """``cpu`` hides the GPUs from this process, ``gpu`` insists on one, ``auto`` takes what is there.

    Call it before anything asks torch for CUDA.
    """
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if name == "gpu":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(
                "there is no GPU that torch can use",
                where="trainer.accelerator",
                got=name,
                cure="run scripts/doctor.py to see why, or set trainer.accelerator=auto",
            )


def check_fp8(fp8: str | None) -> None:
    """Raise ConfigError where FP8 is asked for and this machine's GPUs have none; asks the driver, not torch."""
    if fp8 is None:
        return
    lines, _ = query_gpus()
    for line in lines.splitlines() or ["-, no GPU, , , 0.0, "]:
        _, name, _, _, capability, _ = line.split(", ")
        if float(capability) < FP8_CAPABILITY:
            raise ConfigError(
                "this GPU has no FP8",
                where="model.fp8",
                got=f"{fp8} on {name}, compute capability {capability}",
                expected=f"at least {FP8_CAPABILITY} (H100, H200, L40)",
                cure="set model.fp8=null: bf16 runs on A100 and newer",
            )


def count_gpus() -> int:
    """GPUs that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])
