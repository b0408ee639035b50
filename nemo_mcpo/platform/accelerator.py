# SPDX-License-Identifier: Apache-2.0
"""Selects the device of a run by ``trainer.accelerator``, and checks that its GPUs have FP8 if the run uses it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from nemo_mcpo.config import Model
from nemo_mcpo.config.fp8 import asks_for_fp8, check_capability
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.platform.doctor import query_gpus


def select_accelerator(name: str) -> None:
    """Apply ``trainer.accelerator``: ``cpu`` hides the GPUs, ``gpu`` requires one, ``auto`` uses what is there.

    Call this before anything asks torch for CUDA.

    Raises:
        ConfigError: torch cannot use a GPU, and ``gpu`` was requested; or, with ``auto``, torch is built for CUDA but
            cannot use the GPUs of this machine: a run should not end up on a cluster's CPUs unnoticed.
    """
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif name == "gpu" or count_gpus():
        reason, is_cpu_build = _reason_cuda_is_unusable()
        if reason and (name == "gpu" or not is_cpu_build):
            raise ConfigError(
                "torch cannot use a GPU here",
                where="trainer.accelerator",
                got=f"{name}; {reason}",
                fix="run scripts/doctor.py; update the driver, or use a NeMo container whose CUDA it supports; "
                "or set trainer.accelerator=cpu",
            )


def _reason_cuda_is_unusable() -> tuple[str, bool]:
    """Return why torch has no GPU, in its own words (such as an old driver), and whether it is built without CUDA.

    The reason is empty if torch has a GPU.
    """
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built for CPU only", True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return "", False
    said = " ".join(" ".join(str(warning.message).split()) for warning in caught)
    return said or f"torch {torch.__version__} for CUDA {torch.version.cuda} finds no GPU", False


def check_fp8_here(model: Model) -> None:
    """Raise ConfigError if the model uses FP8 and a GPU of this process does not have it; ask the driver, not torch.

    GPUs whose capability is unknown pass: ``nvidia-smi`` may be missing, or may not print a number.
    """
    if not asks_for_fp8(model)[0]:
        return
    visible = _visible_gpus()
    lines, _ = query_gpus()
    if not lines.strip() and not count_gpus():
        check_capability(model, "no GPU", 0.0)
    for line in lines.splitlines():
        index, name, _, _, capability, _ = line.split(", ")
        hidden = visible is not None and all(one.isdigit() for one in visible) and index not in visible
        if capability.replace(".", "").isdigit() and not hidden:
            check_capability(model, name, float(capability))


def count_gpus() -> int:
    """Return the number of GPUs that this process may use, without importing torch."""
    visible = _visible_gpus()
    if visible is not None:
        return len(visible)
    return len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])


def _visible_gpus() -> list[str] | None:
    """Return the indices or names in CUDA_VISIBLE_DEVICES (none in Slurm's ``NoDevFiles``); None if it is not set."""
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is None:
        return None
    names = [name.strip() for name in variable.split(",")]
    return [name for name in names if name.isdigit() or name.startswith(("GPU-", "MIG-"))]
