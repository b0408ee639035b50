# SPDX-License-Identifier: Apache-2.0
"""Judge stage of an online run: rank the answers of a segment, best first; may be killed at any time.

python scripts/judge.py --config-name gpt_onmcpo <the run's overrides> --segment 0
"""

from pathlib import Path

from nemo_mcpo.algorithms.online_command import stage_command
from nemo_mcpo.platform.command import run_command

CONF = Path(__file__).resolve().parents[1] / "examples" / "conf"

if __name__ == "__main__":
    run_command(lambda argv: stage_command(argv, "judge", CONF))
