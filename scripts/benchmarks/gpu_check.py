# SPDX-License-Identifier: Apache-2.0
"""The checks that need a GPU, and how they are run.

Each check is a separate program, so that one that fails or runs out of memory does not affect the others. It writes
``<out>/<name>.json`` (or ``.xml``), ``<name>.log`` and ``<name>.outcome.json``. The table has every check whose last
run succeeded, so that checks can be split over several calls. Nothing is installed or downloaded.
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

import numpy as np

from nemo_mcpo.platform.packages import is_installed


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the checks are.

    Attributes:
        models: models to train (``models.huggingface.tiny.SIZES``) -> tokens per row; the first one is in every check.
        shapes: tokens per prompt x per completion.
        attention_model: model whose head sizes the attention backends are measured with.
        head: positions, vocabulary size and hidden size of the log-prob head.
        prompts, steps: prompts per step, measured turns.
        scoring_tokens: tokens per scored row.
        compact: model that needs ``CompactAdamW`` to fit -> tokens per row.
        curve_model, curve_steps: model and steps of the runs in bf16 and float32.
        settings: overrides for every check.
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
    models={"1b": 8192, "3b": 4096, "2.8b": 4096},  # rows of 8,192 tokens of 3B do not fit into 80 GB
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
"""The same checks on a CPU in minutes, to see that they run; their numbers mean nothing."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check, a separate program.

    Attributes:
        arguments: arguments of ``python``.
        needs: required modules, or folders of the project (ending in ``/``).
        result: suffix of the file that it writes.
        seconds: time limit.
    """

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    result: str = "json"
    seconds: int = 900


LEARNING = ("model.optim.lr=3e-4", "model.optim.sched.warmup_steps=5", "model.mcpo.beta=0.1")
"""Settings with which a random model learns in fifty steps; flat curves would prove nothing."""
MOMENTS, OFFLOAD = "model.optim.moments_dtype=bfloat16", "model.optim.cpu_offload=true"
OPTIMIZERS = {"moments": (MOMENTS,), "offload": (OFFLOAD,), "both": (MOMENTS, OFFLOAD)}
GPU_TESTS = ("tests/gpu", "tests/unit/trees/backends")
"""Folders with tests marked gpu; other folders need more packages."""
STACK = ("megatron.core", "nemo", "transformers", "datasets", "pydantic", "hydra")
"""Packages that every check needs."""
WORDS = 2000
"""Different words in the preferences; each is about one token of a tokenizer that is trained on them."""
LENGTH_SPREAD = 0.5
"""Standard deviation of the lengths' logarithm."""


def checks(scale: Scale, root: Path, out: Path) -> Iterator[Check]:
    """Yield every check, cheapest first; results go to ``out``."""
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
    """Return what the check needs but this machine lacks."""
    return [need for need in check.needs if not ((root / need).is_dir() if need.endswith("/") else is_installed(need))]


def run_check(check: Check, root: Path, out: Path) -> str:
    """Run a check in the project's folder; return why it failed, or an empty string."""
    log, result = out / f"{check.name}.log", _result(check, out)
    result.unlink(missing_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        command = [sys.executable, *check.arguments]
        process = subprocess.Popen(command, cwd=root, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(check.seconds)
        except subprocess.TimeoutExpired:
            return f"timed out after {check.seconds} s"
        finally:
            with suppress(ProcessLookupError):  # its leftover processes must not disturb the next check
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code == 0:
        return "" if result.exists() else "exit 0, but no result"
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("error: ")), lines[-1] if lines else "nothing")
    return f"exit {code}: {said[:300]}"


def run_checks(chosen: Sequence[Check], root: Path, out: Path, say: Callable[[str], None]) -> list[str]:
    """Run the checks one by one and record their outcomes; return the names of those that ran and failed."""
    failed = []
    for check in chosen:
        lacking, started = missing(check, root), time.monotonic()
        reason = f"not run: {', '.join(lacking)} not found" if lacking else run_check(check, root, out)
        failed += [check.name] if reason and not lacking else []
        outcome = {"ended": datetime.now(timezone.utc).isoformat(timespec="seconds"), "reason": reason}
        (out / f"{check.name}.outcome.json").write_text(json.dumps(outcome), encoding="utf-8")
        say(f"{check.name}: {reason or f'{time.monotonic() - started:.0f} s'}")
    return failed


def outcome_of(check: Check, out: Path) -> str:
    """Return why a check is not in the table, or an empty string."""
    path = out / f"{check.name}.outcome.json"
    return json.loads(path.read_text(encoding="utf-8"))["reason"] if path.exists() else "not run"


def read_results(check: Check, out: Path) -> list[dict]:
    """Read the results of a check that succeeded."""
    path = _result(check, out)
    if check.result == "json":
        return json.loads(path.read_text(encoding="utf-8"))
    suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    counted = ("tests", "failures", "errors", "skipped")
    return [{name: sum(int(suite.get(name, 0)) for suite in suites) for name in counted}]


def _result(check: Check, out: Path) -> Path:
    return out / f"{check.name}.{check.result}"


def write_preferences(path: Path, num_prompts: int, prompt_words: int, answer_words: int) -> None:
    """Write ``num_prompts`` lines in the format ``jsonl``, each with seven ranked responses, for checks on real data.

    Lengths are log-normal around the given means, as in Nectar. The better its rank, the more of a response's words
    are from the first half of the vocabulary, so that there is something to learn.
    """
    random = np.random.default_rng(0)
    consonants, vowels = "bdfgklmnprstvz", "aeiou"
    syllables = [first + second for first in consonants for second in vowels]
    words = [one + two for one in syllables for two in syllables][:WORDS]

    def text(mean: int, share_of_first_half: float) -> str:
        count = max(4, int(random.lognormal(np.log(mean) - LENGTH_SPREAD**2 / 2, LENGTH_SPREAD)))
        first_half = random.random(count) < share_of_first_half
        places = random.integers(0, WORDS // 2, count) + np.where(first_half, 0, WORDS // 2)
        return " ".join(words[place] for place in places)

    with open(path, "w", encoding="utf-8") as file:
        for _ in range(num_prompts):
            responses = [{"text": text(answer_words, 0.8 - 0.1 * rank), "rank": rank + 1} for rank in range(7)]
            file.write(json.dumps({"prompt": text(prompt_words, 0.5), "responses": responses}) + "\n")
