# SPDX-License-Identifier: Apache-2.0
"""Run every check that needs a GPU: the tests marked gpu, then the benchmarks at GPU sizes; write one table.

    python scripts/gpu_check.py                                  # all checks: about half an hour on an H100
    python scripts/gpu_check.py --only tests attention head      # some checks; the table also has earlier results
    python scripts/gpu_check.py --rehearse                       # the same programs on a CPU, small, in minutes

Nothing is installed or downloaded; a check that lacks a package is listed as not run. Results are in
<out>/gpu_check.md and gpu_check.json, with one log per check. The exit code is 0 if every check that could run
finished; the table shows targets that were missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.platform.accelerator import select_accelerator
from nemo_mcpo.platform.command import run_command
from nemo_mcpo.platform.doctor import examine
from nemo_mcpo.platform.report import render

ROOT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="default: results/gpu_check, or results/gpu_check_rehearsed")
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="names of checks, or prefixes of names")
    parser.add_argument("--rehearse", action="store_true", help="run small versions on a CPU")
    options = parser.parse_args(argv)
    select_accelerator("cpu" if options.rehearse else "gpu")
    from benchmarks import gpu_check, gpu_targets  # heavy: report usage errors first

    out = (options.out or Path("results") / ("gpu_check" + "_rehearsed" * options.rehearse)).resolve()
    every = list(gpu_check.checks(gpu_check.REHEARSAL if options.rehearse else gpu_check.GPU, ROOT, out))
    chosen = [check for check in every if not options.only or check.name.startswith(tuple(options.only))]
    if not chosen:
        names = ", ".join(check.name for check in every)
        raise ConfigError("no such check", where="--only", got=options.only, expected=names, fix="choose from these")
    out.mkdir(parents=True, exist_ok=True)
    rows = examine(out)
    print(render(rows), flush=True)
    prompt, answer = (8, 12) if options.rehearse else (121, 288)
    gpu_check.write_preferences(out / "preferences.jsonl", 32 if options.rehearse else 600, prompt, answer)

    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"  # for the checks
    failed = gpu_check.run_checks(chosen, ROOT, out, lambda line: print(line, flush=True))
    outcomes = {check.name: gpu_check.outcome_of(check, out) for check in every}
    found = {check.name: gpu_check.read_results(check, out) for check in every if not outcomes[check.name]}
    lines = [line for name, reports in found.items() for line in gpu_targets.measurements(name, reports)]
    text = "# Rehearsed on a CPU: these numbers mean nothing\n\n" if options.rehearse else ""
    text += gpu_targets.table(lines)
    text += "".join(f"\n\n{name}: {reason}" for name, reason in outcomes.items() if reason) + "\n"
    (out / "gpu_check.md").write_text(text, encoding="utf-8")
    facts = {"machine": [asdict(row) for row in rows], "outcomes": outcomes, "results": found}
    (out / "gpu_check.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text}\n{out / 'gpu_check.md'}, gpu_check.json")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main)
