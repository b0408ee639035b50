# SPDX-License-Identifier: Apache-2.0
"""Small models and preference data as files, and the real commands in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np

from nemo_mcpo.models.huggingface.tiny import make_tiny_model
from tests.support.configs import ROOT

TRAIN = ROOT / "examples" / "train_gpt_mcpo.py"
WORDS = ("red", "blue", "seven", "twelve", "because", "sum", "apple", "not", "maybe", "river", "cloud", "zero")
NUM_CANDIDATES = 4


def write_preferences(path: Path, num_prompts: int = 24, seed: int = 0) -> Path:
    """Write a file in the format ``jsonl``: questions with five ranked responses of 1 to 9 words each."""
    random = np.random.default_rng(seed)

    def text(longest: int) -> str:
        return " ".join(random.choice(WORDS, random.integers(1, longest + 1)))

    with open(path, "w", encoding="utf-8") as file:
        for number in range(num_prompts):
            responses = [{"text": text(9), "rank": rank + 1, "score": -rank} for rank in range(1 + NUM_CANDIDATES)]
            file.write(json.dumps({"prompt": f"{number}: {text(6)}?", "responses": responses}) + "\n")
    return path


def write_inputs(directory: Path) -> Path:
    """Write ``directory/data.jsonl``, and ``directory/model``: a Llama with 4 layers and 4 heads."""
    write_preferences(directory / "data.jsonl", num_prompts=24)
    make_tiny_model(directory / "data.jsonl", directory / "model", "1m", seed=1, vocab_size=300)
    return directory


def tiny_chat_model(folder: Path) -> Path:
    """Write a model with random weights and a chat template; return its Hugging Face directory in ``folder``."""
    (folder / "texts.txt").write_text("A question, and its answer.\n" * 50)
    make_tiny_model(folder / "texts.txt", folder / "tiny", "1m", seed=1)
    return folder / "tiny"


def overrides(inputs: Path, run: Path, **changes: object) -> list[str]:
    """Return the overrides of a run of 5 steps of 4 prompts; ``changes`` are keys with ``__`` for dots."""
    keys = {
        "trainer.mcpo.max_steps": 5,
        "trainer.mcpo.save_interval": 2,
        "exp_manager.explicit_log_dir": run,
        "exp_manager.create_tensorboard_logger": "false",
        "pretrained_checkpoint.restore_from_path": inputs / "model",
        "model.global_batch_size": 4,
        "model.micro_batch_tokens": 128,
        "model.data.train": inputs / "data.jsonl",
        "model.data.format": "jsonl",
        "model.data.drop_ranks": "[]",
        "model.data.max_prompt_length": 64,
        "model.data.max_length": 128,
        "model.data.cache_dir": run.parent / f"{run.name}-cache",
        "model.mcpo.beta": 0.1,
        "model.optim.lr": 1e-3,
    }
    keys |= {key.replace("__", "."): value for key, value in changes.items()}
    return [f"{key}={value}" for key, value in keys.items()]


def environment() -> dict[str, str]:
    """Return the environment of a child process: one thread, this repository and ``length_rule`` in PYTHONPATH."""
    own = [str(ROOT), str(ROOT / "tests" / "support")]
    paths = os.pathsep.join(filter(None, [*own, os.environ.get("PYTHONPATH")]))
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def command(script: Path, arguments: list[str], processes: int = 1) -> list[str]:
    """Return the command line: ``python`` for one process, ``torchrun`` for several."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(launcher if processes > 1 else []), str(script), *arguments]


def run(script: Path, arguments: list[str], processes: int = 1) -> subprocess.CompletedProcess[str]:
    """Run a script until it ends; stop it, and its processes, if it hangs."""
    process = subprocess.Popen(
        command(script, arguments, processes), env=environment(), stdout=PIPE, stderr=PIPE, text=True
    )
    try:
        output, errors = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun then stops its workers, which a kill would leave behind
        process.communicate(timeout=60)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


FORKS = """
import json, os, sys
from nemo_mcpo.algorithms.online_driver import STAGE_MODULES
from nemo_mcpo.platform.forks import preload, start_fork
from nemo_mcpo.platform.launch import run_processes
from nemo_mcpo.platform.stopping import StopRequest

preload(STAGE_MODULES)
answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    command, processes, *logs = json.loads(line)
    for number, log in enumerate(logs, start=1):
        with open(log, "w") as file:
            os.dup2(file.fileno(), number)
    print(run_processes(command, processes, StopRequest(), start_fork), file=answers, flush=True)
"""


@cache
def _parent_of_forks() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", FORKS], env=environment(), stdin=PIPE, stdout=PIPE, text=True)


def fork(script: Path, arguments: list[str], processes: int = 1) -> subprocess.CompletedProcess[str]:
    """Do the same in forks of one process that has imported everything, as the driver of an online run does.

    Importing takes longer than most of these runs. Where several tests run the same command, one of them uses ``run``.
    """
    parent = _parent_of_forks()
    assert parent.stdin is not None and parent.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / name for name in ("output", "errors")]
        words = [sys.executable, str(script), *arguments]
        print(json.dumps([words, processes, *map(str, logs)]), file=parent.stdin, flush=True)
        try:
            code = int(parent.stdout.readline())
        except BaseException:  # a test that is given up must not leave its answer to the next one
            parent.kill()
            _parent_of_forks.cache_clear()
            raise
        return subprocess.CompletedProcess(words, code, *(log.read_text() for log in logs))


def train(arguments: list[str], processes: int = 1, start=run) -> subprocess.CompletedProcess[str]:
    """Run ``examples/train_gpt_mcpo.py`` with ``tiny_cpu`` until it ends, by ``run`` or by ``fork``."""
    return start(TRAIN, ["--config-name=tiny_cpu", *arguments], processes)


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_time(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines without the one value that differs between equal runs."""
    return [{name: value for name, value in line.items() if name != "step_seconds"} for line in lines]


def checkpoint_names(run: Path) -> list[str]:
    """Return the names of the directories in a run's checkpoints, including unfinished ones."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())
