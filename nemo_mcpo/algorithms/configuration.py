# SPDX-License-Identifier: Apache-2.0
"""From a command line to a checked configuration: keys first, then names and parameters against the tables.

torch, NeMo and megatron-core take seconds to import. They are imported late here, so that a wrong key fails at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_mcpo.config import OnlineRunConfig, RunConfig, check_architecture, parse_config
from nemo_mcpo.config.parsing import Config
from nemo_mcpo.platform.accelerator import check_fp8_here, select_accelerator
from nemo_mcpo.platform.command import compose_config, world_size_from_environment

if TYPE_CHECKING:
    from nemo_mcpo.models.pretrained import Pretrained


def open_run(argv: Sequence[str], config_dir: Path) -> tuple[RunConfig, Pretrained]:
    """The checked configuration of an offline run, and its initial policy.

    Raises:
        ConfigError: a key, the layout, or this machine does not fit.
    """
    config: RunConfig = load_run_config(
        argv,
        config_dir=config_dir,
        config_name="gpt_mcpo",
        world_size=world_size_from_environment(),
        selects_device=True,
    )
    check_fp8_here(config.model)
    return config, initial_model(config)


def initial_model(config: RunConfig) -> Pretrained:
    """Open the policy that a run starts from and check it against the configuration; no weights are read yet."""
    from nemo_mcpo.models.pretrained import open_pretrained

    pretrained = open_pretrained(config.pretrained_checkpoint.restore_from_path, config.model.data.cache_dir)
    check_architecture(config, pretrained.architecture)
    return pretrained


def load_run_config(
    argv: Sequence[str],
    *,
    config_dir: Path,
    config_name: str,
    world_size: int | None,
    schema: type[Config] = RunConfig,  # type: ignore[assignment]
    selects_device: bool = False,
) -> Config:
    """Compose the YAML with the overrides and check it.

    Args:
        argv, config_dir, config_name: as for ``compose_config``.
        world_size: number of processes that the launcher started; None for a command that does not train.
        schema: the class that defines the keys.
        selects_device: see ``checked_config``; for a command that computes on this machine.

    Raises:
        ConfigError: a file is missing, or an override or a key is wrong.
    """
    raw = compose_config(argv, config_dir=config_dir, config_name=config_name)
    return checked_config(raw, world_size, schema, selects_device=selects_device)


def checked_config(
    raw: Mapping[str, object],
    world_size: int | None = 1,
    schema: type[Config] = RunConfig,  # type: ignore[assignment]
    *,
    selects_device: bool = False,
) -> Config:
    """Call ``parse_config``, then check every name and parameter against the table of its kind.

    Args:
        selects_device: apply ``trainer.accelerator`` in between, since libraries behind the tables may ask for CUDA.
    """
    config = parse_config(raw, world_size, schema)
    if selects_device:
        select_accelerator(config.trainer.accelerator)
    from nemo_mcpo.algorithms.variants import check_online_variants, check_variants

    check_variants(config)
    if isinstance(config, OnlineRunConfig):
        check_online_variants(config)
    return config
