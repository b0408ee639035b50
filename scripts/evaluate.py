# SPDX-License-Identifier: Apache-2.0
"""Compute the win rate of one policy against another on held-out prompts, decided by the configured judge.

    python scripts/export_model.py --checkpoint results/run --out results/run/huggingface
    python scripts/evaluate.py --policy results/run/huggingface --baseline SFT_DIR --out results/run/evaluation \
        pretrained_checkpoint.restore_from_path=SFT_DIR model.data.train=FILE model.data.validation=HELD_OUT_FILE \
        judge.server.model=DIR

Overrides are those of examples/train_gpt_onmcpo.py. If it is interrupted, run the same command again to continue.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.algorithms.online_command import online_config
from nemo_mcpo.algorithms.preflight import check_and_report
from nemo_mcpo.platform.command import run_command
from nemo_mcpo.platform.stopping import StopRequest

CONF = Path(__file__).resolve().parents[1] / "examples" / "conf"


def main(argv: Sequence[str]) -> None:
    StopRequest().leave_at_once()  # every answer and verdict is saved at once
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="Hugging Face directory")
    parser.add_argument("--baseline", type=Path, required=True, help="Hugging Face directory")
    parser.add_argument("--out", type=Path, required=True)
    arguments, overrides = parser.parse_known_args(argv)
    config = online_config(overrides, CONF, selects_device=True)
    served = {"--policy": str(arguments.policy), "--baseline": str(arguments.baseline)}
    check_and_report(config, None, served)
    # Imported late: torch and transformers take seconds, and a wrong key should fail before that.
    from nemo_mcpo.evaluation.win_rate import compare_policies, win_rate_line

    print(win_rate_line(compare_policies(config, arguments.policy, arguments.baseline, arguments.out)), flush=True)


if __name__ == "__main__":
    run_command(main)
