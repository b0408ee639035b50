# SPDX-License-Identifier: Apache-2.0
"""Benchmark the engine: a step against plain DPO and TRL, its scaling, attention backends, log-prob head, client.

    python scripts/benchmark.py step --shape 250x250 --shape 500x250 --model 25m --json step.json
    python scripts/benchmark.py step --data nectar.parquet --model DIR --recompute full

Make sure the machine is idle (uptime). Times are medians with minimum and maximum; ratios compare turns of one run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_mcpo.algorithms.configuration import load_run_config
from nemo_mcpo.config import OnlineRunConfig, RunConfig
from nemo_mcpo.platform.command import run_command, world_size_from_environment

CONF = Path(__file__).resolve().parents[1] / "examples" / "conf"


SUBCOMMANDS = {
    "step": "a step of MC-PO against a step of plain DPO, in turns",
    "curve": "losses of a run in bf16, in float32, and in float32 with another seed",
    "peer": "our DPO against TRL's DPOTrainer on the same tokens, in turns",
    "parity": "log-probs of a real file's completions against transformers",
    "subsets": "what scoring c of a prompt's candidates costs in statistics, for the checkpoints of a run",
    "profile": "where the time of an MC-PO step goes, and what limits each phase",
    "scaling": "cost of a step by number of candidates, negatives, tokens and processes",
    "attention": "the attention backends against each other",
    "head": "time and memory of the log-prob head",
    "client": "server replies that one process reads per second",
}
TRAINING = ("step", "profile", "peer", "scaling", "curve")
REAL = ("step", "profile", "parity", "subsets", "peer", "curve")
ENGINE_FLAGS: dict[str, dict[str, Any]] = {
    "--recompute": {"choices": ["none", "selective", "full"], "default": "none"},
    "--reuse-scoring": {"choices": ["auto", "true", "false"], "default": "auto"},
    "--attention-backend": {"default": "auto"},
    "--micro-batch-tokens": {"type": int, "default": 2048},
    "--scoring-tokens": {"type": int, "default": 2048},
}
FLAGS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "--shape": (
        ("step", "profile", "attention"),
        {"action": "append", "default": [], "help": "tokens per prompt x per completion, e.g. 250x250"},
    ),
    "--data": (REAL, {"help": "a real data file"}),
    "--format": (REAL, {"default": "nectar", "help": "format of --data (default: nectar)"}),
    "--model": (
        (*TRAINING, "attention", "parity", "subsets"),
        {"default": "25m", "help": "a named size or a Hugging Face directory (default: 25m)"},
    ),
    "--candidates": ((*TRAINING, "attention", "parity"), {"type": int, "default": 5}),
    "--negatives": (TRAINING, {"type": int, "default": 1}),
    "--scored-candidates": (TRAINING, {"type": int, "help": "candidates that a step scores (default: all)"}),
    "--prompts": (
        (*TRAINING, "parity", "subsets"),
        {"type": int, "default": 8, "help": "prompts per step, or to compare (default: 8)"},
    ),
    "--steps": (
        (*TRAINING, "attention", "client"),
        {"type": int, "default": 5, "help": "measured turns, after one for warm-up; steps of a curve (default: 5)"},
    ),
    "--run": (("subsets",), {"type": Path, "help": "log directory of a run of --model that keeps its checkpoints"}),
    **{flag: ((*TRAINING, "parity", "subsets"), how) for flag, how in ENGINE_FLAGS.items()},
    "--layouts": (("scaling",), {"action": "store_true", "help": "also measure two processes: DP2, TP2, PP2"}),
    "--positions": (("head",), {"type": int, "default": 8192}),
    "--vocabulary": (("head",), {"type": int, "default": 128256}),
    "--hidden": (("head",), {"type": int, "default": 512}),
    "--full": (("head",), {"action": "store_true", "help": "also measure logits of the whole row"}),
    "--url": (
        ("client",),
        {
            "action": "append",
            "default": [],
            "help": "URL of a server (default: a local one that answers at once)",
        },
    ),
    "--served-model": (("client",), {"default": "canned", "help": "model name on the servers at --url"}),
    "--replies": (("client",), {"type": int, "default": 2000, "help": "replies per turn (default: 2000)"}),
    "--tokens": (("client",), {"type": int, "default": 150, "help": "tokens per reply (default: 150)"}),
    "--in-flight": (("client",), {"type": int, "default": 32, "help": "concurrent requests per server (default: 32)"}),
    "--streams": (("client",), {"action": "store_true", "help": "make the default server send one chunk per token"}),
    "--json": (tuple(SUBCOMMANDS), {"type": Path, "help": "write the results to this file"}),
    "--set": (
        tuple(SUBCOMMANDS),
        {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": "override any configuration key"},
    ),
}
"""Flag -> the subcommands that read it, and the options for argparse."""


def main(argv: Sequence[str]) -> None:
    arguments = _parse_arguments(argv)
    if arguments.subcommand == "client":
        _write(arguments, [_client(arguments)])
        return
    arguments.keys, arguments.train = _overrides(arguments), CONF.parent / "train_gpt_mcpo.py"
    config: RunConfig = load_run_config(
        arguments.keys,
        config_dir=CONF,
        config_name="tiny_cpu",
        world_size=world_size_from_environment(),
        selects_device=True,
    )
    from benchmarks import run  # heavy: report usage errors first

    reports = getattr(run, f"run_{arguments.subcommand}")(config, arguments)
    if arguments.subcommand == "scaling" and arguments.layouts:
        reports += _layouts(arguments)
    _write(arguments, reports)


def _write(arguments: argparse.Namespace, reports: list[dict]) -> None:
    if arguments.json is not None and reports:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")


def _client(arguments: argparse.Namespace) -> dict:
    """Measure the client; the default server is that of the tests, in a separate process."""
    from benchmarks.client import measure_client, table
    from nemo_mcpo.rollouts.serving import open_serving

    keys = {
        "server@judge.server": "transformers",
        "judge.server.model": arguments.served_model,
        "judge.server.urls": f"[{','.join(arguments.url)}]",
        "judge.server.command": f"[{sys.executable},{CONF.parents[1] / 'tests' / 'support' / 'fake_server.py'}]",
        "judge.server.arguments": f"[--words,'{arguments.tokens}'{',--streams' if arguments.streams else ''}]",
        "judge.server.concurrency": arguments.in_flight,
        "pretrained_checkpoint.restore_from_path": "none",
        "model.data.train": "none",
    }
    argv = [f"{key}={value}" for key, value in keys.items()] + arguments.set
    config = load_run_config(
        argv, config_dir=CONF, config_name="quickstart_onmcpo", world_size=None, schema=OnlineRunConfig
    )
    with tempfile.TemporaryDirectory() as logs:
        serving = open_serving(config.judge.server, arguments.served_model, Path(logs))
        try:
            report = measure_client(serving, arguments.replies, arguments.tokens, arguments.steps)
        finally:
            serving.close()
    print(table(report))
    return report


def _layouts(arguments: argparse.Namespace) -> list[dict]:
    """Measure the step at 250x250 in two processes."""
    from benchmarks.scaling import measure_layouts

    flags = ["--shape", "250x250"]
    for flag in ("--model", "--steps", "--prompts", "--negatives", "--candidates", *ENGINE_FLAGS):
        flags += [flag, str(getattr(arguments, flag.lstrip("-").replace("-", "_")))]
    flags += [part for override in arguments.set for part in ("--set", override)]
    reports = []
    for report in measure_layouts(Path(__file__).resolve(), flags):
        reports.append(report)
        print(
            f"{report['layout']}: MC-PO {report['mcpo_seconds']:.2f} s, plain DPO {report['plain_dpo_seconds']:.2f} s"
        )
    return reports


def _overrides(arguments: argparse.Namespace) -> list[str]:
    """Return the flags as configuration overrides, followed by those of ``--set``."""
    recompute = {"none": "null"}.get(arguments.recompute, arguments.recompute)
    return [
        f"model.data.train={arguments.data or 'synthetic'}",
        f"model.data.format={arguments.format}",
        f"pretrained_checkpoint.restore_from_path={arguments.model}",
        f"model.global_batch_size={arguments.prompts}",
        f"model.mcpo.num_negatives={arguments.negatives}",
        f"model.data.max_candidates={arguments.candidates}",
        f"model.mcpo.scored_candidates={arguments.scored_candidates or 'null'}",
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
        for flag, (readers, how) in FLAGS.items():
            if name in readers:
                command.add_argument(flag, **how)
            else:  # the configuration needs all flags
                command.set_defaults(**{flag.lstrip("-").replace("-", "_"): how.get("default")})
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)
