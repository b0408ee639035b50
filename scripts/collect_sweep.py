# SPDX-License-Identifier: Apache-2.0
"""Print the results of a sweep, finished or not: mean ± standard deviation over seeds for each learning rate.

python scripts/collect_sweep.py results/mcpo_sweep --metric val_rewards/accuracy
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nemo_mcpo.evaluation.sweep import read_runs, sweep_table
from nemo_mcpo.platform.command import run_command


def main(argv: Sequence[str]) -> None:
    """Print the table, and write all values to ``collected.json`` beside the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--metric", default="rewards/accuracy", help="key of metrics.jsonl; val_…: last validation")
    arguments = parser.parse_args(argv)
    runs = read_runs(arguments.directory, arguments.metric)
    content = {"metric": arguments.metric, "runs": [asdict(run) for run in runs]}
    (arguments.directory / "collected.json").write_text(json.dumps(content, indent=1))
    print(sweep_table(runs, arguments.metric))


if __name__ == "__main__":
    run_command(main)
