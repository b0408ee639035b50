# SPDX-License-Identifier: Apache-2.0
"""Everything that only a GPU can show, by one command: the checks, what each must reach, and the table of it all.

A check is a program of its own, so that one that fails or runs out of memory leaves the others alone. Each writes
``<out>/<name>.json`` (or ``.xml``), ``<name>.log`` and ``<name>.outcome.json``; the table is made of every check whose
last run ended well, so that checks can run in several calls. Nothing is installed or fetched.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree

from nemo_mcpo.platform.packages import is_installed


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the checks are.

    Attributes:
        models: names of ``models.huggingface.tiny.SIZES`` that train, the first in every check -> tokens of a row.
        shapes: tokens of prompt x completion.
        attention_model: whose heads the attention backends are measured with.
        head: positions, vocabulary and hidden size of the log-prob head.
        prompts, steps: of a step; measured turns.
        scoring_tokens: of a row that is scored.
        compact: a model that fits only with a compact optimizer -> tokens of a row.
        curve_model, curve_steps: of the runs in bf16 and float32.
        settings: configuration keys of every check.
    """

    models: dict[str, int]
    shapes: tuple[str, ...]
    attention_model: str
    head: tuple[int, int, int]
    prompts: int
    steps: int
    scoring_tokens: int
    compact: dict[str, int]
    curve_model: str
    curve_steps: int
    settings: tuple[str, ...]


GPU = Scale(
    models={"1b": 8192, "3b": 4096, "2.8b": 4096},  # with rows of 8,192 tokens 3B does not fit into 80 GB
    shapes=("250x250", "121x288"),
    attention_model="2.8b",
    head=(8192, 128256, 4096),
    prompts=32,
    steps=5,
    scoring_tokens=32768,
    compact={"8b": 4096},
    curve_model="100m",
    curve_steps=50,
    settings=("trainer.accelerator=gpu", "trainer.precision=bf16", "model.transformer_impl=auto"),
)
REHEARSAL = Scale(
    models={"1m": 256},
    shapes=("16x8",),
    attention_model="1m",
    head=(512, 2000, 32),
    prompts=2,
    steps=1,
    scoring_tokens=256,
    compact={"3m": 256},
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
        needs: modules, or folders of the project, without which it cannot run.
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
MOMENTS, OFFLOAD = "model.optim.moments_dtype=bfloat16", "model.optim.cpu_offload=true"
OPTIMIZERS = {"moments": (MOMENTS,), "offload": (OFFLOAD,), "both": (MOMENTS, OFFLOAD)}
GPU_TESTS = ("tests/gpu", "tests/unit/trees/backends")
"""Where tests are marked gpu; other tests need packages that these do without."""
STACK = ("megatron.core", "nemo", "transformers", "datasets", "pydantic", "hydra")


def checks(scale: Scale, root: Path, out: Path) -> Iterator[Check]:
    """Every check, the cheapest first; ``out`` is where results go."""
    benchmark = str(root / "scripts" / "benchmark.py")
    data = str(out / "preferences.jsonl")
    settings = [part for setting in scale.settings for part in ("--set", setting)]

    def sizes(model: str) -> list[str]:
        counts = ["--prompts", str(scale.prompts), "--steps", str(scale.steps)]
        tokens = (scale.models | scale.compact)[model]
        rows = ["--micro-batch-tokens", str(tokens), "--scoring-tokens", str(scale.scoring_tokens)]
        return ["--model", model, *counts, *rows]

    shapes = [part for shape in scale.shapes for part in ("--shape", shape)]

    def measured(name: str, *flags: str, needs: tuple[str, ...] = (), seconds: int = 900) -> Check:
        arguments = (benchmark, *flags, *settings, "--json", str(out / f"{name}.json"))
        return Check(name, arguments, (*STACK, *needs), seconds=seconds)

    marked = ("-m", "gpu", *GPU_TESTS) if scale is GPU else ("-m", "not gpu", GPU_TESTS[0])
    tests = ("-m", "pytest", "-q", f"--rootdir={root}", f"--junitxml={out / 'tests.xml'}", *marked)
    yield Check("tests", tests, (*STACK, "pytest", "tests/"), result="xml", seconds=1500)
    steps = ["--steps", str(scale.steps)]
    yield measured("attention", "attention", "--model", scale.attention_model, *shapes, *steps)
    positions, vocabulary, hidden = map(str, scale.head)
    yield measured("head", "head", "--positions", positions, "--vocabulary", vocabulary, "--hidden", hidden, "--full")
    for model in scale.models:
        for recompute in ("none", "full"):
            flags = ("step", "--recompute", recompute, *shapes, *sizes(model))
            yield measured(f"step-{model}-{recompute}", *flags)
    small = next(iter(scale.models))
    yield measured(f"profile-{small}", "profile", *shapes, *sizes(small))
    yield measured(f"profile-{small}-full", "profile", "--recompute", "full", *shapes, *sizes(small))
    for model, optimizer in ((small, "moments"), (small, "offload"), (next(iter(scale.compact)), "both")):
        keys = [part for key in OPTIMIZERS[optimizer] for part in ("--set", key)]
        flags = ("--recompute", "full", *shapes[:2], *sizes(model), *keys)
        yield measured(f"optimizer-{model}-{optimizer}", "profile", *flags)
    of_file = ["--data", data, "--format", "jsonl"]
    yield measured(f"peer-{small}", "peer", *of_file, *sizes(small), needs=("trl",))
    curve = ["--model", scale.curve_model, "--steps", str(scale.curve_steps), "--prompts", str(scale.prompts)]
    learning = [part for key in LEARNING for part in ("--set", key)]
    yield measured("curve", "curve", *curve, *of_file, *learning, seconds=1500)
    fp8 = ("--set", "model.fp8=hybrid", "--set", "model.transformer_impl=transformer_engine")
    yield measured(f"fp8-{small}", "step", *shapes, *sizes(small), *fp8, needs=("transformer_engine",))


def missing(check: Check, root: Path) -> list[str]:
    """What it needs and is not here."""
    return [need for need in check.needs if not ((root / need).is_dir() if need.endswith("/") else is_installed(need))]


def run_check(check: Check, root: Path, out: Path) -> str:
    """Run it to its end, in the project's folder; why it failed, or nothing."""
    log, result = out / f"{check.name}.log", _result(check, out)
    result.unlink(missing_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        command = [sys.executable, *check.arguments]
        process = subprocess.Popen(command, cwd=root, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(check.seconds)
        except subprocess.TimeoutExpired:
            return f"not done after {check.seconds} s"
        finally:
            with suppress(ProcessLookupError):  # what it started must not disturb the next one
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code == 0:
        return "" if result.exists() else "exit 0, and no result"
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("error: ")), lines[-1] if lines else "nothing")
    return f"exit {code}: {said[:300]}"


def run_checks(chosen: Sequence[Check], root: Path, out: Path, say: Callable[[str], None]) -> list[str]:
    """Run the checks in turn and note how each ended; those that failed, without those that could not run."""
    failed = []
    for check in chosen:
        lacking, started = missing(check, root), time.monotonic()
        reason = f"not run: no {', '.join(lacking)} here" if lacking else run_check(check, root, out)
        failed += [check.name] if reason and not lacking else []
        outcome = {"ended": datetime.now(timezone.utc).isoformat(timespec="seconds"), "reason": reason}
        (out / f"{check.name}.outcome.json").write_text(json.dumps(outcome), encoding="utf-8")
        say(f"{check.name}: {reason or f'{time.monotonic() - started:.0f} s'}")
    return failed


def outcome_of(check: Check, out: Path) -> str:
    """Why its last run is not in the table, or nothing."""
    path = out / f"{check.name}.outcome.json"
    return json.loads(path.read_text(encoding="utf-8"))["reason"] if path.exists() else "not run"


def read_results(check: Check, out: Path) -> list[dict]:
    """What a check that ended well wrote."""
    path = _result(check, out)
    if check.result == "json":
        return json.loads(path.read_text(encoding="utf-8"))
    suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    counted = ("tests", "failures", "errors", "skipped")
    return [{name: sum(int(suite.get(name, 0)) for suite in suites) for name in counted}]


def _result(check: Check, out: Path) -> Path:
    return out / f"{check.name}.{check.result}"
