# SPDX-License-Identifier: Apache-2.0
"""FP8: which keys enable it, and what it needs from other keys and from the GPU."""

from __future__ import annotations

from nemo_mcpo.config.schema import Model, RunConfig
from nemo_mcpo.errors import ConfigError

FP8_CAPABILITY = 8.9
"""CUDA compute capability of Ada, Hopper and newer."""
BLOCKWISE_CAPABILITY = 9.0
"""Transformer Engine multiplies tensors with one scale per block on Hopper and newer (CUDA 12.9)."""


def asks_for_fp8(model: Model) -> tuple[str, object, str]:
    """Return the key that enables FP8, its value, and the value that disables it; an empty key if none does."""
    if model.fp8:
        return "model.fp8", model.fp8, "null"
    return ("model.mcpo.scoring_fp8", True, "false") if model.mcpo.scoring_fp8 else ("", None, "")


def check_fp8(config: RunConfig) -> None:
    """Raise ConfigError if FP8 cannot work with the other keys."""
    model = config.model
    key, value, off = asks_for_fp8(model)
    if key and (model.transformer_impl == "local" or config.trainer.precision != "bf16"):
        raise ConfigError(
            "FP8 needs Transformer Engine layers in bf16",
            where=key,
            got=value,
            fix=f"set model.transformer_impl=transformer_engine and trainer.precision=bf16, or {key}={off}",
        )
    if model.mcpo.scoring_fp8 and model.fp8:
        raise ConfigError(
            "model.fp8 already runs everything in FP8",
            where="model.mcpo.scoring_fp8",
            got=True,
            expected="false with model.fp8",
            fix="set model.mcpo.scoring_fp8=false, or model.fp8=null to train in bf16",
        )
    if model.mcpo.scoring_fp8 and model.mcpo.reuse_scoring is True:
        raise ConfigError(
            "training in bf16 cannot reuse a scoring pass in FP8",
            where="model.mcpo.reuse_scoring",
            got=True,
            expected="auto or false with model.mcpo.scoring_fp8",
            fix="set model.mcpo.reuse_scoring=auto, or model.mcpo.scoring_fp8=false",
        )


def check_capability(model: Model, gpu: str, capability: float) -> None:
    """Raise ConfigError if the model uses FP8, or an FP8 recipe, that the GPU does not support."""
    key, value, off = asks_for_fp8(model)
    blockwise = model.fp8_recipe == "blockwise"
    needed = BLOCKWISE_CAPABILITY if blockwise else FP8_CAPABILITY
    if key and capability < needed:
        raise ConfigError(
            "this GPU has no blockwise FP8" if blockwise else "this GPU has no FP8",
            where=key,
            got=f"{value} on {gpu}, compute capability {capability}",
            expected=f"at least {needed} (H100, H200{'' if blockwise else ', L40'})",
            fix=f"set {key}={off}: bf16 runs on A100 and newer",
        )
