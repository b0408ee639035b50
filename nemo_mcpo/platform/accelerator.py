# SPDX-License-Identifier: Apache-2.0
"""``trainer.accelerator``: which device a run uses."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from nemo_mcpo.config import Model
from nemo_mcpo.config.fp8 import asks_for_fp8, check_capability
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.platform.doctor import query_gpus


def select_accelerator(name: str) -> None:
    """``cpu`` hides the GPUs from this process, ``gpu`` insists on one, ``auto`` takes what is there.

    Call it before anything asks torch for CUDA.

    Raises:
        ConfigError: there is no GPU that torch can use and one was asked for; or, with ``auto``, there are GPUs and a
            torch built for them, which cannot use them: a run must not end up on a cluster's CPUs unnoticed.
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
                fix="run scripts/doctor.py, and update the driver or use the NeMo container whose CUDA it has; "
                "or set trainer.accelerator=cpu",
            )


def _reason_cuda_is_unusable() -> tuple[str, bool]:
    """Why torch has no GPU, in its own words (a driver too old, for one), or nothing; and whether it never could."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built for CPUs only", True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return "", False
    said = " ".join(" ".join(str(warning.message).split()) for warning in caught)
    return said or f"torch {torch.__version__} for CUDA {torch.version.cuda} finds no GPU", False


def check_fp8_here(model: Model) -> None:
    """Raise ConfigError where FP8 is asked for and this process's GPUs have none; asks the driver, not torch.

    A driver that does not say what its GPUs can (none of its programs is here, or no number) is taken at its word.
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
    """GPUs that this process may use, without importing torch."""
    visible = _visible_gpus()
    if visible is not None:
        return len(visible)
    return len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])


def _visible_gpus() -> list[str] | None:
    """Numbers or names in CUDA_VISIBLE_DEVICES (none in Slurm's ``NoDevFiles``); None where it is not set."""
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is None:
        return None
    names = [name.strip() for name in variable.split(",")]
    return [name for name in names if name.isdigit() or name.startswith(("GPU-", "MIG-"))]
