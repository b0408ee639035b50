# SPDX-License-Identifier: Apache-2.0
"""Measure the engine: a step against plain DPO, against TRL, what its cost depends on, attention backends.

    python scripts/benchmark.py step --shape 250x250 --shape 500x250 --model 25m --json step.json
    python scripts/benchmark.py step --data nectar.parquet --model DIR --recompute full

Let the machine idle first (uptime). Times are medians with smallest and largest; ratios are of turns in one run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from nemo_mcpo.platform.accelerator import select_accelerator
from nemo_mcpo.platform.command import load_run_config, run_command, world_size_from_environment

CONF = Path(__file__).resolve().parents[1] / "examples" / "conf"


SUBCOMMANDS = {
    "step": "a step of MC-PO against one of plain DPO, in turns",
    "peer": "our DPO against TRL's DPOTrainer on the same tokens, in turns",
    "scaling": "what a step costs as candidates, negatives, lengths and processes grow",
    "attention": "the attention backends against each other",
    "head": "time and memory of the log-prob head",
}


def main(argv: Sequence[str]) -> None:
    arguments = _parse_arguments(argv)
    config = load_run_config(
        _overrides(arguments), config_dir=CONF, config_name="tiny_cpu", world_size=world_size_from_environment()
    )
    select_accelerator(config.trainer.accelerator)
    from nemo_mcpo.benchmarks import run  # heavy: usage errors come before

    reports = getattr(run, f"run_{arguments.subcommand}")(config, arguments)
    if arguments.subcommand == "scaling" and arguments.layouts:
        reports += _layouts(arguments)
    if arguments.json is not None and reports:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")


def _layouts(arguments: argparse.Namespace) -> list[dict]:
    """The step at 250x250 in two processes."""
    from nemo_mcpo.benchmarks.scaling import measure_layouts

    flags = ["--shape", "250x250", "--model", arguments.model, "--steps", str(arguments.steps)]
    for name in ("prompts", "recompute", "negatives", "candidates", "micro_batch_tokens", "scoring_tokens"):
        flags += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    flags += ["--reuse-scoring", arguments.reuse_scoring, "--attention-backend", arguments.attention_backend]
    flags += [part for override in arguments.set for part in ("--set", override)]
    reports = []
    for report in measure_layouts(Path(__file__).resolve(), flags):
        reports.append(report)
        print(
            f"{report['layout']}: MC-PO {report['mcpo_seconds']:.2f} s, plain DPO {report['plain_dpo_seconds']:.2f} s"
        )
    return reports


def _overrides(arguments: argparse.Namespace) -> list[str]:
    """The flags as keys of the configuration, and then the user's own."""
    recompute = {"none": "null"}.get(arguments.recompute, arguments.recompute)
    return [
        f"model.data.train={arguments.data or 'synthetic'}",
        f"model.data.format={arguments.format}",
        f"pretrained_checkpoint.restore_from_path={arguments.model}",
        f"model.global_batch_size={arguments.prompts}",
        f"model.mcpo.num_negatives={arguments.negatives}",
        f"model.data.max_candidates={arguments.candidates}",
        f"model.activations_checkpoint_granularity={recompute}",
        f"model.attention_backend={arguments.attention_backend}",
        f"model.mcpo.reuse_scoring={arguments.reuse_scoring}",
        f"model.micro_batch_tokens={arguments.micro_batch_tokens}",
        f"model.mcpo.scoring_tokens={arguments.scoring_tokens}",
        *arguments.set,
    ]


def _parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="subcommand", required=True)
    for name, text in SUBCOMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--shape", action="append", default=[], help="tokens of prompt x completion, e.g. 250x250"
        )
        command.add_argument("--data", help="a real file instead of shapes")
        command.add_argument("--format", default="nectar", help="of --data (default: nectar)")
        command.add_argument("--model", default="25m", help="a size (25m) or a Hugging Face directory")
        command.add_argument("--candidates", type=int, default=5)
        command.add_argument("--negatives", type=int, default=1)
        command.add_argument("--prompts", type=int, default=8, help="a step (default: 8)")
        command.add_argument("--steps", type=int, default=5, help="measured turns, after one to warm up (default: 5)")
        command.add_argument("--recompute", choices=["none", "selective", "full"], default="none")
        command.add_argument("--reuse-scoring", choices=["auto", "true", "false"], default="auto")
        command.add_argument("--attention-backend", default="auto")
        command.add_argument("--micro-batch-tokens", type=int, default=2048)
        command.add_argument("--scoring-tokens", type=int, default=2048)
        command.add_argument("--json", type=Path, help="write the results here")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key")
        if name == "scaling":
            command.add_argument("--layouts", action="store_true", help="also two processes: DP2, TP2, PP2")
        if name == "head":
            command.add_argument("--positions", type=int, default=8192)
            command.add_argument("--vocabulary", type=int, default=128256)
            command.add_argument("--hidden", type=int, default=512)
            command.add_argument("--full", action="store_true", help="measure logits of the whole row too")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)
