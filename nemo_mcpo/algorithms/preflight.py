# SPDX-License-Identifier: Apache-2.0
"""Everything that an online run's servers and judge need, found missing before the first stage instead of hours later.

One function, ``check_servers``, called by ``train_gpt_onmcpo.py`` before it starts a stage and with ``--dry-run``, by
the Slurm jobs before their first stage and with theirs, by ``evaluate.py``, and by ``doctor.py`` for a run that it is
given.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mcpo.config import OnlineRunConfig, RunConfig, Server, parse_config
from nemo_mcpo.config.online import api_key, longest_question
from nemo_mcpo.errors import ConfigError, NemoMcpoError
from nemo_mcpo.judging.rule import load_rule
from nemo_mcpo.platform.accelerator import count_gpus
from nemo_mcpo.platform.command import compose_config
from nemo_mcpo.platform.doctor import MIB_PER_GIB, RUN, query_gpus
from nemo_mcpo.platform.report import Row
from nemo_mcpo.rollouts.fit import Machine, check_layout, check_memory, check_prompts
from nemo_mcpo.rollouts.launchers import LAUNCHERS
from nemo_mcpo.rollouts.running_servers import check_urls
from nemo_mcpo.rollouts.served_model import BYTES, CONFIG, ServedModel, read_served_model, sizes_of
from nemo_mcpo.rollouts.server_environment import check_gpus, passed_on, server_environment

IMAGE_SECONDS = 600.0
"""For looking into an image, which a site may have to load first."""


def this_machine(config: OnlineRunConfig) -> Machine:
    """The GPUs here that a run may use."""
    gpus = 0 if config.trainer.accelerator == "cpu" else count_gpus()
    lines, _ = query_gpus()
    sizes = [line.split(", ")[2] for line in lines.splitlines() if line.count(", ") >= 3]
    known = [float(size) / MIB_PER_GIB for size in sizes if size.replace(".", "").isdigit()]
    return Machine(gpus, min(known, default=None) if gpus else None, is_here=True)


def check_servers(
    config: OnlineRunConfig, machine: Machine, policies: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """What is known about the servers of a run, in lines for its user.

    Args:
        policies: directories that are served in turn, by what names them; None: the policy that the run starts from.

    Raises:
        ConfigError: a program, a key, a model or a part of it is missing, or something does not fit.
    """
    rollouts, judge = config.rollouts, config.judge
    notes: list[str] = []
    if rollouts.engine == "openai":
        section = "rollouts.server"
        if rollouts.server.urls:
            notes += check_urls(rollouts.server, section, rollouts.server.model, must_run=False)
        else:
            for model in _policies(config, policies):
                notes += _check_own(rollouts.server, model, config.model.data.max_prompt_length, section, machine)
            notes += _check_program(rollouts.server, section, machine)
    if judge.kind == "openai":
        section = "judge.server"
        if judge.server.urls:
            notes += check_urls(judge.server, section, judge.server.model, must_run=machine.is_here)
        else:
            model = read_served_model(judge.server.model or "", f"{section}.model", needs_template=True)
            question = longest_question(config) - judge.max_tokens
            notes += _check_own(judge.server, model, question, section, machine)
            notes += _check_program(judge.server, section, machine)
    elif judge.kind == "rule":
        load_rule(judge.rule or "")
    else:
        read_served_model(judge.reward_model or "", "judge.reward_model", needs_template=True)
    return tuple(dict.fromkeys(notes))


def _policies(config: OnlineRunConfig, policies: Mapping[str, str] | None) -> list[ServedModel]:
    """The models that servers for ``rollouts`` will load."""
    if policies is not None:
        return [read_served_model(directory, name) for name, directory in policies.items()]
    from nemo_mcpo.models.pretrained import open_pretrained

    start = open_pretrained(config.pretrained_checkpoint.restore_from_path, config.model.data.cache_dir)
    shape = start.architecture
    file = start.files / CONFIG
    return [sizes_of(json.loads(file.read_text()), shape.num_parameters * BYTES[shape.dtype], str(file))]


def _check_own(settings: Server, model: ServedModel, longest_prompt: int, section: str, machine: Machine) -> list[str]:
    """A server that is started for a model."""
    api_key(settings, section)
    check_gpus(settings, machine.gpus, section)
    if machine.is_here:
        passed_on(settings, section)
    if LAUNCHERS[settings.launcher].parallel:
        check_layout(settings, model, section)
        check_prompts(settings, longest_prompt, section)
    if not machine.gpus:
        return []
    if machine.gibibytes is None:
        return [f"{section}: the memory of the GPUs is not known here, so whether the model fits is not checked"]
    return [check_memory(settings, model, machine.gibibytes, section)]


def _check_program(settings: Server, section: str, machine: Machine) -> list[str]:
    """The program is there: on this machine, or behind the words that stand before it."""
    if not machine.is_here:
        return [f"{section}: {settings.command[0]} is looked for where the servers run, not here"]
    first = settings.prefix[0] if settings.prefix else settings.command[0]
    if shutil.which(first) is None:
        raise ConfigError(
            "there is no such program",
            where=f"{section}.{'prefix' if settings.prefix else 'command'}",
            got=first,
            cure="give its path in the environment where it is installed, or urls of running servers",
        )
    if settings.prefix:
        _look_behind(settings, section)
    return []


def _look_behind(settings: Server, section: str) -> None:
    """Ask for the program where the words before it lead: a container, or a Slurm step in another image."""
    question = ["sh", "-c", 'command -v "$0"', settings.command[0]]
    try:
        answer = subprocess.run(
            [*settings.prefix, *question],
            env=server_environment(settings, 0, section),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=IMAGE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        problem = f"no answer within {IMAGE_SECONDS:.0f} s"
    else:
        said = " ".join(answer.stderr.split())[-200:]
        problem = f"exit code {answer.returncode} {said}".strip() if answer.returncode else ""
    if problem:
        raise ConfigError(
            "the program is not there, behind the words before it",
            where=f"{section}.prefix",
            got=f"{' '.join([*settings.prefix, settings.command[0]])}: {problem}",
            cure=f"correct {section}.prefix, or {section}.command to its path in the image",
        )


def check_and_report(config: OnlineRunConfig, gpus: int | None, policies: Mapping[str, str] | None = None) -> None:
    """``check_servers``, and print what is known; for nodes of so many GPUs, or for this machine (None)."""
    machine = this_machine(config) if gpus is None else Machine(gpus, None, is_here=False)
    for note in check_servers(config, machine, policies):
        print(f"  {note}", flush=True)


def run_rows(words: Sequence[str], config_dir: Path) -> tuple[Row, ...]:
    """A row about the run of ``doctor.py CONFIG key=value …``, on this machine."""
    name, overrides = words[0], words[1:]
    enables, cure = "this run's servers and judge", "change what it names"
    try:
        raw = compose_config(overrides, config_dir=config_dir, config_name=name)
        config = parse_config(raw, None, OnlineRunConfig if "onmcpo" in raw else RunConfig)
        notes = check_servers(config, this_machine(config)) if isinstance(config, OnlineRunConfig) else ()
    except NemoMcpoError as error:
        return (Row(RUN, "broken", name, enables, str(error), cure, required=True),)
    return (Row(RUN, "ok", name, enables, "; ".join(notes)),)
