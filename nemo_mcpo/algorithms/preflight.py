# SPDX-License-Identifier: Apache-2.0
"""Checks everything that an online run's servers and judge need before the first stage, not hours into the run.

``check_servers`` is called by ``train_gpt_onmcpo.py`` before its first stage and with ``--dry-run``, by the Slurm jobs
likewise, by ``evaluate.py``, and by ``doctor.py`` for a given run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mcpo.algorithms.configuration import checked_config
from nemo_mcpo.config import OnlineRunConfig, RunConfig
from nemo_mcpo.errors import NemoMcpoError
from nemo_mcpo.platform.accelerator import count_gpus
from nemo_mcpo.platform.command import compose_config
from nemo_mcpo.platform.doctor import MIB_PER_GIB, RUN, query_gpus
from nemo_mcpo.platform.report import Row
from nemo_mcpo.rollouts.fit import Machine


def this_machine(config: OnlineRunConfig) -> Machine:
    """The GPUs of this machine that a run may use."""
    gpus = 0 if config.trainer.accelerator == "cpu" else count_gpus()
    lines, _ = query_gpus()
    sizes = [line.split(", ")[2] for line in lines.splitlines() if line.count(", ") >= 3]
    known = [float(size) / MIB_PER_GIB for size in sizes if size.replace(".", "").isdigit()]
    return Machine(gpus, min(known, default=None) if gpus else None, is_here=True)


def check_servers(
    config: OnlineRunConfig, machine: Machine, policies: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Check the servers of a run and return notes for its user.

    Args:
        policies: directories that are served in turn, by the key or flag that names each; None for the policy that the
            run starts from.

    Raises:
        ConfigError: a program, a key, a model or a part of a model is missing, or something does not fit.
    """
    # Imported late: they import transformers and the server client, which takes seconds.
    from nemo_mcpo.judging.judges import JUDGES
    from nemo_mcpo.rollouts.engines import ENGINES

    engine, judge = ENGINES[config.rollouts.engine.name], JUDGES[config.judge.kind.name]
    notes = [*engine.preflight(config, machine, policies), *judge.preflight(config, machine)]
    return tuple(dict.fromkeys(notes))


def check_and_report(config: OnlineRunConfig, gpus: int | None, policies: Mapping[str, str] | None = None) -> None:
    """Call ``check_servers`` for nodes with ``gpus`` GPUs, or for this machine (None), and print its notes."""
    machine = this_machine(config) if gpus is None else Machine(gpus, None, is_here=False)
    for note in check_servers(config, machine, policies):
        print(f"  {note}", flush=True)


def run_rows(words: Sequence[str], config_dir: Path) -> tuple[Row, ...]:
    """The row of ``doctor.py CONFIG key=value …`` about that run on this machine."""
    name, overrides = words[0], words[1:]
    enables, fix = "this run's servers and judge", "change the setting that it names"
    try:
        raw = compose_config(overrides, config_dir=config_dir, config_name=name)
        config = checked_config(raw, None, OnlineRunConfig if "onmcpo" in raw else RunConfig)
        notes = check_servers(config, this_machine(config)) if isinstance(config, OnlineRunConfig) else ()
    except NemoMcpoError as error:
        return (Row(RUN, "broken", name, enables, str(error), fix, required=True),)
    return (Row(RUN, "ok", name, enables, "; ".join(notes)),)
