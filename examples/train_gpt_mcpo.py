# SPDX-License-Identifier: Apache-2.0
"""Train a policy with MC-PO, or another objective in the table.

    python examples/train_gpt_mcpo.py --config-name tiny_cpu model.data.train=FILE \
        pretrained_checkpoint.restore_from_path=DIR exp_manager.explicit_log_dir=results/run
    torchrun --nproc-per-node=2 examples/train_gpt_mcpo.py … model.tensor_model_parallel_size=2

Set any key of examples/conf/gpt_mcpo.yaml with key=value. The same command continues an interrupted run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.algorithms.configuration import open_run
from nemo_mcpo.platform.command import run_command
from nemo_mcpo.platform.stopping import StopRequest

CONF = Path(__file__).resolve().parent / "conf"


def main(argv: Sequence[str]) -> None:
    """Check the configuration against the model's architecture, then train."""
    stop = StopRequest().listen()
    config, pretrained = open_run(argv, CONF)
    from nemo_mcpo.algorithms.run import run_mcpo

    run_mcpo(config, pretrained, stop)


if __name__ == "__main__":
    run_command(main)
