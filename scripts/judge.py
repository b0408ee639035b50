# SPDX-License-Identifier: Apache-2.0
"""Ranks the answers of a segment of an online run, best first; kill it any time.

python scripts/judge.py --config-name gpt_onmcpo <the overrides of the run> --segment 0
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.algorithms.online_command import stage_command
from nemo_mcpo.platform.command import run_command

CONF = Path(__file__).resolve().parents[1] / "examples" / "conf"


def main(argv: Sequence[str]) -> None:
    """The stage ``judge``."""
    stage_command(argv, "judge", CONF)


if __name__ == "__main__":
    run_command(main)
