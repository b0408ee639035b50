# SPDX-License-Identifier: Apache-2.0
"""Train a policy with MC-PO (or another objective of the table).

    python examples/train_gpt_mcpo.py --config-name tiny_cpu model.data.train=FILE \
        pretrained_checkpoint.restore_from_path=DIR exp_manager.explicit_log_dir=results/run
    torchrun --nproc-per-node=2 examples/train_gpt_mcpo.py … model.tensor_model_parallel_size=2

Any key of examples/conf/gpt_mcpo.yaml can follow as key=value. The same command continues an interrupted run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.config import check_architecture
from nemo_mcpo.platform.accelerator import select_accelerator
from nemo_mcpo.platform.command import load_run_config, run_command, world_size_from_environment
from nemo_mcpo.platform.stopping import StopRequest


def main(argv: Sequence[str]) -> None:
    """Check the configuration against the model's architecture, then train."""
    stop = StopRequest().listen()
    config = load_run_config(
        argv,
        config_dir=Path(__file__).resolve().parent / "conf",
        config_name="gpt_mcpo",
        world_size=world_size_from_environment(),
    )
    select_accelerator(config.trainer.accelerator)
    # torch, NeMo and megatron-core take seconds to import, which a wrong key need not wait for.
    from nemo_mcpo.models.pretrained import open_pretrained

    pretrained = open_pretrained(config.pretrained_checkpoint.restore_from_path, config.model.data.cache_dir)
    check_architecture(config, pretrained.architecture)
    from nemo_mcpo.algorithms.run import run_mcpo

    run_mcpo(config, pretrained, stop)


if __name__ == "__main__":
    run_command(main)
