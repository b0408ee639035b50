# SPDX-License-Identifier: Apache-2.0
"""Run the stages of the quickstart in order, with one log file and one printed line per stage; skip finished stages.

A stage is finished if ``logs/<number>.json`` has its recipe (the command and the content of its configuration) and its
seconds. If the recipe has changed, this stage and all later ones start over; an interrupted stage runs again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nemo_mcpo.errors import NemoMcpoError
from nemo_mcpo.platform.children import Child
from nemo_mcpo.platform.launch import run_processes
from nemo_mcpo.platform.stopping import StopRequest
from nemo_mcpo.storage.atomic import write_json

LINES_SHOWN = 15


class StageError(NemoMcpoError):
    """A stage's command failed."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command.

    Attributes:
        title: what it does, for the user.
        command: Python, a script and its arguments.
        outputs: what it writes; removed before the stage starts over with another recipe.
        config: a configuration file that the command reads.
        processes: number of processes that run the command together.
    """

    title: str
    command: Sequence[str]
    outputs: Sequence[Path]
    config: Path | None = None
    processes: int = 1

    @property
    def recipe(self) -> str:
        """Hash of everything that determines the stage's result."""
        content = b"" if self.config is None else self.config.read_bytes()
        return hashlib.sha256(json.dumps([*self.command, self.processes]).encode() + content).hexdigest()


def run_stages(stages: Sequence[Stage], logs: Path, start: Callable[..., Child]) -> list[float]:
    """Run unfinished stages, and return the seconds of all; for an interrupted stage, those of its last attempt.

    ``start`` is ``start_child`` or ``start_fork``.
    """
    logs.mkdir(parents=True, exist_ok=True)
    seconds = []
    for number, stage in enumerate(stages, start=1):
        mark = logs / f"{number}.json"
        head = f"[{number}/{len(stages)}] {stage.title}"
        saved: dict[str, Any] = json.loads(mark.read_text()) if mark.exists() else {"recipe": stage.recipe}
        if saved["recipe"] != stage.recipe:
            print(f"{head}: settings changed; rerunning this and all later stages", flush=True)
            _clear(stages[number - 1 :], [logs / f"{later}.json" for later in range(number, len(stages) + 1)])
            saved = {"recipe": stage.recipe}
        if "seconds" not in saved:
            write_json(mark, {"recipe": stage.recipe}, private=False)
            saved["seconds"] = _run(stage, head, logs / f"{number}.log", start)
            write_json(mark, saved, private=False)
        else:
            print(f"{head}: already finished, {saved['seconds']:.0f} s", flush=True)
        seconds.append(saved["seconds"])
    return seconds


def _clear(stages: Sequence[Stage], marks: Sequence[Path]) -> None:
    for mark in marks:
        mark.unlink(missing_ok=True)
    for output in (output for stage in stages for output in stage.outputs):
        shutil.rmtree(output) if output.is_dir() else output.unlink(missing_ok=True)


def _run(stage: Stage, head: str, log: Path, start: Callable[..., Child]) -> float:
    started = time.monotonic()

    def show_progress() -> None:
        if sys.stdout.isatty():
            _show(f"{head} … {time.monotonic() - started:.0f} s  {_last_line(log)}")

    _show(head if sys.stdout.isatty() else f"{head} … ")
    with log.open("w") as file:
        code = run_processes(
            stage.command, stage.processes, StopRequest(), start=partial(start, output=file), tick=show_progress
        )
    seconds = time.monotonic() - started
    if code:
        print("failed", flush=True)
        print(*(f"    {line}" for line in _reason(log)), sep="\n", file=sys.stderr)
        fix = "read the log, then run the same command again: it continues from here"
        raise StageError(f"stage failed: {stage.title}", where=str(log), got=f"exit {code}", fix=fix)
    _show(f"{head}: {seconds:.0f} s" if sys.stdout.isatty() else f"{seconds:.0f} s")
    print(flush=True)
    return seconds


def _reason(log: Path) -> list[str]:
    """The relevant lines of a failed command's log: from its ``error:`` line on, else the last ones."""
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith("error: ")), -LINES_SHOWN)
    return lines[first:][:LINES_SHOWN]


def _show(text: str) -> None:
    """Rewrite the current line on a terminal; append to it in a file."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        text = f"\r{text[:width]:<{width}}"
    print(text, end="", flush=True)


def _last_line(log: Path) -> str:
    """The end of the progress bar at the end of the log, if there is one."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 400))
        parts = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    units = ("it/s", "step/s", "answer/s", "prompt/s", "sample/s")
    bars = [part for part in parts if any(unit in part for unit in units)]
    return bars[-1].split("|")[-1].strip() if bars else ""
