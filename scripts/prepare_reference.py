# SPDX-License-Identifier: Apache-2.0
"""Prepares the data of a run and scores it with the initial policy, so that runs that share its cache start to train.

    python scripts/prepare_reference.py --config-name tiny_cpu model.data.train=FILE \
        pretrained_checkpoint.restore_from_path=DIR

Overrides and launchers are those of examples/train_gpt_mcpo.py; seed and learning rate do not matter. Stopped, the
same command continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.algorithms.train_command import open_run
from nemo_mcpo.platform.command import run_command
from nemo_mcpo.platform.stopping import StopRequest

CONF = Path(__file__).resolve().parents[1] / "examples" / "conf"


def main(argv: Sequence[str]) -> None:
    """Check the configuration as training does, then fill the cache."""
    stop = StopRequest().listen()
    config, pretrained = open_run(argv, CONF)
    from nemo_mcpo.algorithms.run import prepare_reference

    prepare_reference(config, pretrained, stop)


if __name__ == "__main__":
    run_command(main)
