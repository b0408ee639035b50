# SPDX-License-Identifier: Apache-2.0
"""Everything that only a GPU can show, by one command: the checks, what each must reach, and the table of it all.

A check is a program of its own, so that one that fails or runs out of memory leaves the others alone. Each writes
``<out>/<name>.json`` (or ``.xml``) and ``<name>.log``; the table is made of whatever is there, so that checks can run
in several calls. Nothing is installed or fetched.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from nemo_mcpo.platform.packages import is_installed


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the checks are.

    Attributes:
        models: names of ``models.huggingface.tiny.SIZES`` that train, the first in every check.
        shapes: tokens of prompt x completion.
        attention_model: whose heads the attention backends are measured with.
        head: positions, vocabulary and hidden size of the log-prob head.
        prompts, steps: of a step; measured turns.
        row_tokens, scoring_tokens: budgets of packed rows.
        curve_model, curve_steps: of the runs in bf16 and float32.
        settings: configuration keys of every check.
    """

    models: tuple[str, ...]
    shapes: tuple[str, ...]
    attention_model: str
    head: tuple[int, int, int]
    prompts: int
    steps: int
    row_tokens: int
    scoring_tokens: int
    curve_model: str
    curve_steps: int
    settings: tuple[str, ...]


GPU = Scale(
    models=("1b", "3b", "2.8b"),
    shapes=("250x250", "121x288"),
    attention_model="2.8b",
    head=(8192, 128256, 4096),
    prompts=32,
    steps=5,
    row_tokens=8192,
    scoring_tokens=32768,
    curve_model="100m",
    curve_steps=50,
    settings=("trainer.accelerator=gpu", "trainer.precision=bf16", "model.transformer_impl=auto"),
)
REHEARSAL = Scale(
    models=("1m",),
    shapes=("16x8",),
    attention_model="1m",
    head=(512, 2000, 32),
    prompts=2,
    steps=1,
    row_tokens=256,
    scoring_tokens=256,
    curve_model="1m",
    curve_steps=3,
    settings=("trainer.accelerator=cpu",),
)
"""The same checks on a CPU in minutes, to see that they run at all; its numbers say nothing."""


@dataclass(frozen=True, slots=True)
class Check:
    """One program.

    Attributes:
        arguments: what comes after ``python``.
        needs: modules without which it cannot run.
        result: ending of the file that it writes.
        seconds: when it is given up.
    """

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    result: str = "json"
    seconds: int = 900


LEARNING = ("model.optim.lr=3e-4", "model.optim.sched.warmup_steps=5", "model.mcpo.beta=0.1")
"""With these a random model learns in fifty steps: curves that stay flat would prove nothing."""
STACK = ("megatron.core", "nemo", "transformers", "datasets", "pydantic", "hydra")


def checks(scale: Scale, root: Path, out: Path) -> Iterator[Check]:
    """Every check, the cheapest first; ``out`` is where results go."""
    benchmark = str(root / "scripts" / "benchmark.py")
    data = str(out / "preferences.jsonl")
    settings = [part for setting in scale.settings for part in ("--set", setting)]
    sizes = ["--prompts", str(scale.prompts), "--steps", str(scale.steps)]
    sizes += ["--micro-batch-tokens", str(scale.row_tokens), "--scoring-tokens", str(scale.scoring_tokens)]
    shapes = [part for shape in scale.shapes for part in ("--shape", shape)]

    def measured(name: str, *flags: str, needs: tuple[str, ...] = (), seconds: int = 900) -> Check:
        arguments = (benchmark, *flags, *settings, "--json", str(out / f"{name}.json"))
        return Check(name, arguments, (*STACK, *needs), seconds=seconds)

    marked = ("-m", "gpu", "tests") if scale is GPU else ("-m", "not gpu", "tests/gpu")
    tests = ("-m", "pytest", "-q", f"--rootdir={root}", f"--junitxml={out / 'tests.xml'}", *marked)
    yield Check("tests", tests, (*STACK, "pytest"), result="xml")
    steps = ["--steps", str(scale.steps)]
    yield measured("attention", "attention", "--model", scale.attention_model, *shapes, *steps)
    positions, vocabulary, hidden = map(str, scale.head)
    yield measured("head", "head", "--positions", positions, "--vocabulary", vocabulary, "--hidden", hidden, "--full")
    for model in scale.models:
        for recompute in ("none", "full"):
            flags = ("step", "--model", model, "--recompute", recompute, *shapes, *sizes)
            yield measured(f"step-{model}-{recompute}", *flags)
    small = scale.models[0]
    yield measured(f"profile-{small}", "profile", "--model", small, *shapes, *sizes)
    yield measured(f"profile-{small}-full", "profile", "--model", small, "--recompute", "full", *shapes, *sizes)
    of_file = ["--data", data, "--format", "jsonl"]
    yield measured(f"peer-{small}", "peer", "--model", small, *of_file, *sizes, needs=("trl",))
    curve = ["--model", scale.curve_model, "--steps", str(scale.curve_steps), "--prompts", str(scale.prompts)]
    learning = [part for key in LEARNING for part in ("--set", key)]
    yield measured("curve", "curve", *curve, *of_file, *learning, seconds=1500)
    fp8 = ("--set", "model.fp8=hybrid", "--set", "model.transformer_impl=transformer_engine")
    yield measured(f"fp8-{small}", "step", "--model", small, *shapes, *sizes, *fp8, needs=("transformer_engine",))


def missing(check: Check) -> list[str]:
    """Modules that it needs and that are not here."""
    return [module for module in check.needs if not is_installed(module)]


def run_check(check: Check, root: Path, out: Path) -> str:
    """Run it to its end, in the project's folder; why it failed, or nothing."""
    log = out / f"{check.name}.log"
    with open(log, "w", encoding="utf-8") as file:
        try:
            command = [sys.executable, *check.arguments]
            done = subprocess.run(
                command, cwd=root, stdout=file, stderr=subprocess.STDOUT, timeout=check.seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return f"not done after {check.seconds} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("error: ")), lines[-1] if lines else "nothing")
    return f"exit {done.returncode}: {said[:300]}"


def run_checks(chosen: Sequence[Check], root: Path, out: Path, say: Callable[[str], None]) -> dict[str, str]:
    """Run the checks in turn; why each did not end well, or nothing."""
    outcomes = {}
    for check in chosen:
        lacking, started = missing(check), time.monotonic()
        outcomes[check.name] = f"not run: no {', '.join(lacking)} here" if lacking else run_check(check, root, out)
        say(f"{check.name}: {outcomes[check.name] or f'{time.monotonic() - started:.0f} s'}")
    return outcomes


def read_results(check: Check, out: Path) -> list[dict] | None:
    """What a check wrote; None where it wrote nothing."""
    path = out / f"{check.name}.{check.result}"
    if not path.exists():
        return None
    if check.result == "json":
        return json.loads(path.read_text(encoding="utf-8"))
    suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    counted = ("tests", "failures", "errors", "skipped")
    return [{name: sum(int(suite.get(name, 0)) for suite in suites) for name in counted}]
