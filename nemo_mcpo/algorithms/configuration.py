# SPDX-License-Identifier: Apache-2.0
"""From a command line to a checked configuration: keys first, then names and parameters against the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mcpo.config import OnlineRunConfig, RunConfig, parse_config
from nemo_mcpo.config.parsing import Config
from nemo_mcpo.platform.command import compose_config


def load_run_config(
    argv: Sequence[str],
    *,
    config_dir: Path,
    config_name: str,
    world_size: int | None,
    schema: type[Config] = RunConfig,  # type: ignore[assignment]
) -> Config:
    """Compose the YAML with the overrides and check it.

    Args:
        argv, config_dir, config_name: as for ``compose_config``.
        world_size: number of processes that the launcher started; None for a command that does not train.
        schema: what the keys are.

    Raises:
        ConfigError: a file that is not there, an override or a key that is wrong.
    """
    return checked_config(compose_config(argv, config_dir=config_dir, config_name=config_name), world_size, schema)


def checked_config(
    raw: Mapping[str, object],
    world_size: int | None = 1,
    schema: type[Config] = RunConfig,  # type: ignore[assignment]
    *,
    serves: bool = True,
) -> Config:
    """``parse_config``, and every name and parameter checked against the table of its kind.

    Args:
        serves: False for a command that asks neither an engine nor a judge, so that their libraries are not imported.
    """
    config = parse_config(raw, world_size, schema)
    # The tables hold functions of torch, which takes seconds to import: a wrong key need not wait for it.
    from nemo_mcpo.algorithms.variants import check_online_variants, check_variants

    check_variants(config)
    if isinstance(config, OnlineRunConfig):
        check_online_variants(config, serves)
    return config
