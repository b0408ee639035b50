# SPDX-License-Identifier: Apache-2.0
"""The command lines of an online run: a whole run and each of its stages take the same overrides."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.algorithms.configuration import load_run_config
from nemo_mcpo.algorithms.onmcpo import STAGES
from nemo_mcpo.config import OnlineRunConfig
from nemo_mcpo.platform.accelerator import check_fp8_here
from nemo_mcpo.platform.command import world_size_from_environment
from nemo_mcpo.platform.report import render_facts
from nemo_mcpo.platform.stopping import StopRequest


def online_config(
    argv: Sequence[str], config_dir: Path, *, trains: bool = False, selects_device: bool = False
) -> OnlineRunConfig:
    """The checked configuration; with ``trains``, also checked against the processes of this launch."""
    return load_run_config(
        argv,
        config_dir=config_dir,
        config_name="gpt_onmcpo",
        world_size=world_size_from_environment() if trains else None,
        schema=OnlineRunConfig,
        selects_device=selects_device,
    )


def stage_command(argv: Sequence[str], stage: str, config_dir: Path) -> None:
    """Run one stage of segment ``--segment`` (default 0) and print its facts."""
    stop = StopRequest().listen()
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--segment", type=int, default=0)
    arguments, overrides = parser.parse_known_args(argv)
    launch = STAGES[stage].launch
    config = online_config(overrides, config_dir, trains=launch == "all", selects_device=True)
    if launch != "servers":  # also for the export, which runs on the training nodes hours before training
        check_fp8_here(config.model)
    # Imported late: torch, NeMo and megatron-core take seconds, and a wrong key should fail before that.
    from nemo_mcpo.algorithms.online_stages import run_stage
    from nemo_mcpo.platform.distributed import is_rank_zero

    facts = run_stage(config, arguments.segment, stage, stop).facts()
    if is_rank_zero():
        known = {name.replace("_", " "): f"{value:.6g}" for name, value in facts.items() if not math.isnan(value)}
        print(render_facts(known), flush=True)
