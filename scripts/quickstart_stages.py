# SPDX-License-Identifier: Apache-2.0
"""Runs the stages of the quickstart one after the other: logs to files, one line a stage, finished ones are skipped.

A stage is finished when ``logs/<number>.json`` holds its recipe (the command and the content of its configuration) and
its seconds. Where the recipe changed, this stage and all after it start over; where it was interrupted, it runs again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nemo_mcpo.errors import NemoMcpoError

THREADS = "1"
"""A process: a model this small gains little from more, and loses much when other programs want the cores."""
POLL_SECONDS = 0.5
LINES_SHOWN = 15


class StageError(NemoMcpoError):
    """A stage's command failed."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command.

    Attributes:
        title: what it does, for people.
        command: program and arguments.
        outputs: what it writes; removed before the stage starts over with another recipe.
        config: a configuration file that the command reads.
    """

    title: str
    command: Sequence[str]
    outputs: Sequence[Path]
    config: Path | None = None

    @property
    def recipe(self) -> str:
        """Hash of everything that makes the stage's result."""
        content = b"" if self.config is None else self.config.read_bytes()
        return hashlib.sha256(json.dumps([*self.command]).encode() + content).hexdigest()


def run_stages(stages: Sequence[Stage], logs: Path) -> list[float]:
    """Seconds of every stage, also of those that an earlier call finished; of an interrupted one, its last attempt."""
    logs.mkdir(parents=True, exist_ok=True)
    seconds = []
    for number, stage in enumerate(stages, start=1):
        mark = logs / f"{number}.json"
        head = f"[{number}/{len(stages)}] {stage.title}"
        saved = json.loads(mark.read_text()) if mark.exists() else {"recipe": stage.recipe}
        if saved["recipe"] != stage.recipe:
            print(f"{head}: its settings changed; from here on everything is made again", flush=True)
            _clear(stages[number - 1 :], [logs / f"{later}.json" for later in range(number, len(stages) + 1)])
            saved = {"recipe": stage.recipe}
        if "seconds" not in saved:
            _write(mark, {"recipe": stage.recipe})
            saved["seconds"] = _run(stage, head, logs / f"{number}.log")
            _write(mark, saved)
        else:
            print(f"{head}: finished before, {saved['seconds']:.0f} s", flush=True)
        seconds.append(saved["seconds"])
    return seconds


def _clear(stages: Sequence[Stage], marks: Sequence[Path]) -> None:
    for mark in marks:
        mark.unlink(missing_ok=True)
    for output in (output for stage in stages for output in stage.outputs):
        shutil.rmtree(output) if output.is_dir() else output.unlink(missing_ok=True)


def _write(mark: Path, content: dict[str, object]) -> None:
    partial = mark.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    partial.replace(mark)


def _run(stage: Stage, head: str, log: Path) -> float:
    started = time.monotonic()
    # A machine with one GPU cannot give two processes one each; the quickstart is a program for CPUs everywhere.
    environment = os.environ | {"OMP_NUM_THREADS": THREADS, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    _show(head if sys.stdout.isatty() else f"{head} … ")
    with log.open("w") as file, _child(stage.command, file, environment) as process:
        while process.poll() is None:
            if sys.stdout.isatty():
                _show(f"{head} … {time.monotonic() - started:.0f} s  {_last_words(log)}")
            time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - started
    if process.returncode:
        print("failed", flush=True)
        print(*(f"    {line}" for line in _reason(log)), sep="\n", file=sys.stderr)
        cure = "read the log, then run the same command again: it goes on from here"
        raise StageError(f"stage failed: {stage.title}", where=str(log), got=f"exit {process.returncode}", cure=cure)
    _show(f"{head}: {seconds:.0f} s" if sys.stdout.isatty() else f"{seconds:.0f} s")
    print(flush=True)
    return seconds


def _reason(log: Path) -> list[str]:
    """The lines of a failed command's log worth showing: from its own ``error:`` line on, else the last ones."""
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith("error: ")), -LINES_SHOWN)
    return lines[first:][:LINES_SHOWN]


@contextmanager
def _child(command: Sequence[str], file, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A child that does not outlive this block: an interrupted quickstart leaves no training running."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _show(text: str) -> None:
    """On a terminal, the current line anew; in a file, more of it."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        text = f"\r{text[:width]:<{width}}"
    print(text, end="", flush=True)


def _last_words(log: Path) -> str:
    """The end of a progress bar, if the log ends with one."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 400))
        parts = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    units = ("it/s", "step/s", "answer/s", "prompt/s", "sample/s")
    bars = [part for part in parts if any(unit in part for unit in units)]
    return bars[-1].split("|")[-1].strip() if bars else ""
