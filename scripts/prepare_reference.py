# SPDX-License-Identifier: Apache-2.0
"""Prepare a run's data and reference log-probs, so that every run with the same cache starts training at once.

    python scripts/prepare_reference.py --config-name tiny_cpu model.data.train=FILE \
        pretrained_checkpoint.restore_from_path=DIR

Overrides and launchers are those of examples/train_gpt_mcpo.py; seed and learning rate do not matter. If it is
interrupted, run the same command again to continue.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.algorithms.configuration import open_run
from nemo_mcpo.platform.command import run_command
from nemo_mcpo.platform.stopping import StopRequest

CONF = Path(__file__).resolve().parents[1] / "examples" / "conf"


def main(argv: Sequence[str]) -> None:
    stop = StopRequest().listen()
    config, pretrained = open_run(argv, CONF)
    from nemo_mcpo.algorithms.run import prepare_reference

    prepare_reference(config, pretrained, stop)


if __name__ == "__main__":
    run_command(main)
