# SPDX-License-Identifier: Apache-2.0
"""Generate stage of an online run: sample answers from the policy at a segment's start; may be killed at any time.

python scripts/generate.py --config-name gpt_onmcpo <the run's overrides> --segment 0
"""

from pathlib import Path

from nemo_mcpo.algorithms.online_command import stage_command
from nemo_mcpo.platform.command import run_command

CONF = Path(__file__).resolve().parents[1] / "examples" / "conf"

if __name__ == "__main__":
    run_command(lambda argv: stage_command(argv, "generate", CONF))
