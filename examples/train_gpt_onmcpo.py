# SPDX-License-Identifier: Apache-2.0
"""Train a policy with OnMC-PO: in each segment, the policy generates answers and a judge ranks them.

    python examples/train_gpt_onmcpo.py model.data.train=FILE pretrained_checkpoint.restore_from_path=DIR \
        exp_manager.explicit_log_dir=results/online judge.server.model=DIR

This command starts every stage and its processes on this machine. If it is killed, the same command continues.
``--dry-run`` only checks that servers, models and the judge are available and fit; add ``--gpus 8`` to check for nodes
with that many GPUs instead of this machine, and ``--list-stages FILE`` to write the remaining stages to a file. A
scheduler can run the stages itself, one after the other, with the same overrides and the number of a segment:

    python examples/train_gpt_onmcpo.py … --stage export --segment 0
    python scripts/generate.py … --segment 0
    python scripts/judge.py … --segment 0
    torchrun --nproc-per-node=8 examples/train_gpt_onmcpo.py … --stage train --segment 0
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.algorithms.online_command import online_config, stage_command
from nemo_mcpo.algorithms.online_driver import drive, dry_run
from nemo_mcpo.algorithms.onmcpo import STAGES
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.platform.command import run_command
from nemo_mcpo.platform.stopping import StopRequest

CONF = Path(__file__).resolve().parent / "conf"


def main(argv: Sequence[str]) -> None:
    """Drive the whole run, run one of its stages, or check what it needs."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--list-stages", type=Path)
    arguments, rest = parser.parse_known_args(argv)
    if arguments.dry_run:
        dry_run(online_config(rest, CONF), arguments.gpus, arguments.list_stages)
        return
    for option, value in (("--gpus", arguments.gpus), ("--list-stages", arguments.list_stages)):
        if value is not None:
            raise ConfigError("only with --dry-run", where=option, got=value, fix=f"add --dry-run, or drop {option}")
    if arguments.stage is not None:
        stage_command(rest, arguments.stage, CONF)
        return
    stop = StopRequest().listen()
    script = [sys.executable, __file__, *rest]
    drive(
        online_config(rest, CONF), lambda stage, segment: [*script, "--stage", stage, "--segment", str(segment)], stop
    )


if __name__ == "__main__":
    run_command(main)
