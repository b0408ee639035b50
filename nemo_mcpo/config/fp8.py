# SPDX-License-Identifier: Apache-2.0
"""FP8: which key asks for it, what it needs of other keys and of the GPU."""

from __future__ import annotations

from nemo_mcpo.config.schema import Model, RunConfig
from nemo_mcpo.errors import ConfigError

FP8_CAPABILITY = 8.9
"""Of CUDA: Ada, Hopper and newer."""
BLOCKWISE_CAPABILITY = 9.0
"""Transformer Engine has products of tensors with a scale a block for Hopper and newer (CUDA 12.9)."""


def asks_for_fp8(model: Model) -> tuple[str, object, str]:
    """The key that asks for FP8, its value, and the value that does not; an empty key where none does."""
    if model.fp8:
        return "model.fp8", model.fp8, "null"
    return ("model.mcpo.scoring_fp8", True, "false") if model.mcpo.scoring_fp8 else ("", None, "")


def check_fp8(config: RunConfig) -> None:
    """Raise ConfigError where FP8 cannot work with the other keys."""
    model = config.model
    key, value, off = asks_for_fp8(model)
    if key and (model.transformer_impl == "local" or config.trainer.precision != "bf16"):
        raise ConfigError(
            "FP8 needs Transformer Engine's layers in bf16",
            where=key,
            got=value,
            fix=f"set model.transformer_impl=transformer_engine and trainer.precision=bf16, or {key}={off}",
        )
    if key and model.fp8_recipe == "delayed":
        raise ConfigError(
            "delayed scaling takes its scales from earlier passes: log-probs would depend on what was scored before, "
            "and the reference is scored before there is any",
            where="model.fp8_recipe",
            got="delayed",
            expected="tensorwise or blockwise, whose scales are of the tensor at hand",
            fix="set model.fp8_recipe=tensorwise",
        )
    if model.mcpo.scoring_fp8 and model.fp8:
        raise ConfigError(
            "everything is in FP8 already",
            where="model.mcpo.scoring_fp8",
            got=True,
            expected="false with model.fp8",
            fix="set model.mcpo.scoring_fp8=false, or model.fp8=null to train in bf16",
        )
    if model.mcpo.scoring_fp8 and model.mcpo.reuse_scoring is True:
        raise ConfigError(
            "what was scored in FP8 is not what training in bf16 would compute",
            where="model.mcpo.reuse_scoring",
            got=True,
            expected="auto or false with model.mcpo.scoring_fp8",
            fix="set model.mcpo.reuse_scoring=auto, or model.mcpo.scoring_fp8=false",
        )


def check_capability(model: Model, gpu: str, capability: float) -> None:
    """Raise ConfigError where FP8 is asked for on a GPU that has none, or not with this recipe."""
    key, value, off = asks_for_fp8(model)
    by_blocks = model.fp8_recipe == "blockwise"
    needed = BLOCKWISE_CAPABILITY if by_blocks else FP8_CAPABILITY
    if key and capability < needed:
        raise ConfigError(
            "this GPU has no FP8 by blocks" if by_blocks else "this GPU has no FP8",
            where=key,
            got=f"{value} on {gpu}, compute capability {capability}",
            expected=f"at least {needed} (H100, H200{'' if by_blocks else ', L40'})",
            fix=f"set {key}={off}: bf16 runs on A100 and newer",
        )
