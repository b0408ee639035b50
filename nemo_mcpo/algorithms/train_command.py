# SPDX-License-Identifier: Apache-2.0
"""The command line of whatever trains offline: overrides to a configuration that fits the processes and the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_mcpo.algorithms.configuration import load_run_config
from nemo_mcpo.config import RunConfig, check_architecture
from nemo_mcpo.platform.accelerator import check_fp8_here, select_accelerator
from nemo_mcpo.platform.command import world_size_from_environment

if TYPE_CHECKING:
    from nemo_mcpo.models.pretrained import Pretrained


def open_run(argv: Sequence[str], config_dir: Path) -> tuple[RunConfig, Pretrained]:
    """The checked configuration of overrides, and the initial policy; no weight is read yet.

    Raises:
        ConfigError: a key, the layout, or this machine does not fit.
    """
    config: RunConfig = load_run_config(
        argv, config_dir=config_dir, config_name="gpt_mcpo", world_size=world_size_from_environment()
    )
    select_accelerator(config.trainer.accelerator)
    check_fp8_here(config.model)
    # torch, NeMo and megatron-core take seconds to import, which a wrong key need not wait for.
    from nemo_mcpo.models.pretrained import open_pretrained

    pretrained = open_pretrained(config.pretrained_checkpoint.restore_from_path, config.model.data.cache_dir)
    check_architecture(config, pretrained.architecture)
    return config, pretrained
