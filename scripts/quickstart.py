# SPDX-License-Identifier: Apache-2.0
"""From nothing to aligned models on a laptop: a small Llama learns addition from careless answers; MC-PO corrects it.

python scripts/quickstart.py --seed 1

The fine-tuning answers forget most carries, so the fine-tuned model forgets them, too. MC-PO sees the right answer
beside wrong ones, and the model starts to carry. OnMC-PO sees only questions: in each of three segments, it trains on
the model's own answers, ranked by the task's rule. Run the same command again to continue an interrupted quickstart.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_mcpo.algorithms.online_driver import STAGE_MODULES
from nemo_mcpo.evaluation.intervals import Interval
from nemo_mcpo.evaluation.report import POLICIES, Example, Scores, example_lines, score_table, summary
from nemo_mcpo.platform.children import Child
from nemo_mcpo.platform.command import leave_on_sigterm, run_command
from nemo_mcpo.platform.forks import preload, start_fork
from quickstart_stages import Stage, run_stages

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "examples" / "conf"
PYTHON = sys.executable
THREADS = "1"
"""Threads per process: a model this small gains little from more, and suffers when other programs need the cores."""
EVALUATION_MODULES = ("nemo_mcpo.evaluation.answers", "nemo_mcpo.evaluation.preference_accuracy")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="seed of the data, weights and draws (default: 1)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "quickstart", help="output directory")
    parser.add_argument("--sums", type=int, nargs=3, metavar=("SFT", "MCPO", "EVAL"), help="number of sums per part")
    arguments = parser.parse_args(argv)
    leave_on_sigterm()
    out = arguments.out.resolve()
    stages = quickstart_stages(out, arguments.seed, arguments.sums)
    print(f"A small Llama learns to add, and MC-PO teaches it to carry. Files and logs: {short(out)}", flush=True)
    # The quickstart always runs on CPUs, since a machine with one GPU could not run its pairs of processes.
    os.environ |= {"OMP_NUM_THREADS": THREADS, "CUDA_VISIBLE_DEVICES": ""}
    seconds = sum(run_stages(stages, out / "logs", start_warm))
    print(f"total: {seconds:.0f} s\n")
    print(report(out, seconds))
    print(next_steps(out, stages[5].command))


def start_warm(command: Sequence[str], **options: Any) -> Child:
    """Call ``start_fork``; the first call imports what all stages need."""
    preload([*STAGE_MODULES, *EVALUATION_MODULES])
    return start_fork(command, **options)


def quickstart_stages(work: Path, seed: int, sums: Sequence[int] | None) -> list[Stage]:
    """The whole pipeline; each command also works by itself."""
    sizes = dict(zip(("sft", "preferences", "evaluation"), sums, strict=True)) if sums else {}
    data = [work / name for name in ("sft.jsonl", "preference_prompts.jsonl", "evaluation.jsonl")]
    initial, sft, mcpo, onmcpo = (work / name for name in ("initial", "sft", "mcpo", "onmcpo"))
    models = {run.name: run / "huggingface" for run in (sft, mcpo, onmcpo)}
    preferences, evaluation = work / "preferences.jsonl", work / "evaluation.json"
    return [
        Stage(
            "write the sums: fine-tuning answers forget most carries",
            script("quickstart_data.py", out=work, seed=seed, **sizes),
            data,
        ),
        Stage(
            "make a Llama of a million random weights and its tokenizer",
            script("make_tiny_model.py", data=data[0], size="1m", out=initial, seed=seed),
            [initial],
        ),
        training("fine-tune it (SFT, 2 data-parallel processes)", "quickstart_sft", data[0], initial, sft, seed, 1),
        export(sft),
        Stage(
            "sample answers from it and rank them by the rule",
            script("quickstart_preferences.py", model=models["sft"], prompts=data[1], out=preferences, seed=seed),
            [preferences],
        ),
        training(
            "align it (MC-PO, 2 tensor-parallel processes)", "quickstart_mcpo", preferences, models["sft"], mcpo, seed
        ),
        export(mcpo),
        training(
            "align it online (OnMC-PO: generate, judge by the rule, train, 3 times)",
            "quickstart_onmcpo",
            data[1],
            models["sft"],
            onmcpo,
            seed,
            program="train_gpt_onmcpo.py",
            processes=1,
        ),
        export(onmcpo),
        Stage(
            "evaluate all on held-out sums",
            script("quickstart_evaluate.py", data=data[2], out=evaluation, **models),
            [evaluation],
        ),
    ]


def script(name: str, **options: object) -> list[str]:
    """The command line of a script in ``scripts/``."""
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    return [PYTHON, str(ROOT / "scripts" / name), *words]


def training(
    title: str,
    config: str,
    data: Path,
    model: Path,
    log_dir: Path,
    seed: int,
    tensor_parallel: int = 2,
    *,
    program: str = "train_gpt_mcpo.py",
    processes: int = 2,
) -> Stage:
    """A training run on two processes: two replicas, or one model split in two. An online run starts its own."""
    keys = {
        "model.data.train": data,
        "pretrained_checkpoint.restore_from_path": model,
        "exp_manager.explicit_log_dir": log_dir,
        "model.seed": seed,
        "model.data.cache_dir": log_dir.parent / "cache",
        "model.tensor_model_parallel_size": tensor_parallel,
    }
    command = [PYTHON, str(ROOT / "examples" / program), "--config-name", config]
    command += [f"{key}={value}" for key, value in keys.items()]
    return Stage(title, command, [log_dir], config=CONF / f"{config}.yaml", processes=processes)


def export(log_dir: Path) -> Stage:
    """The stage that exports a run's newest checkpoint as a Hugging Face directory."""
    out = log_dir / "huggingface"
    command = script("export_model.py", checkpoint=log_dir, out=out)
    return Stage("export it as a Hugging Face directory", command, [out])


def report(out: Path, seconds: float) -> str:
    """Write ``summary.json``, and return the table and examples."""
    results = json.loads((out / "evaluation.json").read_text())
    scores = {
        policy: Scores(**{name: Interval(**rate) for name, rate in results[policy].items()}) for policy in POLICIES
    }
    (out / "summary.json").write_text(json.dumps(summary(scores, seconds), indent=1) + "\n")
    examples = [example_lines(Example(**example)) for example in results["examples"]]
    return "\n".join(["Held-out sums, 95 % intervals:", score_table(scores), "", *examples, ""])


def next_steps(out: Path, command: Sequence[str]) -> str:
    """Files worth opening, and the MC-PO command to experiment with."""
    words = ["torchrun", "--nproc-per-node=2", *map(short, command[1:4])]
    lines = [shlex.join(words), *(shlex.quote(short(override)) for override in command[4:])]
    files = {
        "the numbers": out / "summary.json",
        "what MC-PO saw": out / "preferences.jsonl",
        "every step": out / "mcpo" / "metrics.jsonl",
        "the online loop": out / "onmcpo" / "segments",
        "the aligned models": out / "onmcpo" / "huggingface",
        "its settings": CONF / "quickstart_mcpo.yaml",
        "every setting": CONF / "gpt_mcpo.yaml",
    }
    return "\n".join(
        [
            "Where to look next",
            *(f"  {title:<19}{short(path)}" for title, path in files.items()),
            "  your own data      docs/data.md",
            "The MC-PO command (to change a setting, also choose another explicit_log_dir):",
            "  " + " \\\n      ".join(lines),
        ]
    )


def short(text: object) -> str:
    """A text with paths relative to the current directory."""
    return str(text).replace(f"{os.getcwd()}{os.sep}", "")


if __name__ == "__main__":
    run_command(main)
