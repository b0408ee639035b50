# SPDX-License-Identifier: Apache-2.0
"""What a server needs before it can start: its program, its key, its GPUs, and room for the models that it serves."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from nemo_mcpo.config import Server
from nemo_mcpo.config.online import api_key
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.rollouts.fit import Machine, check_layout, check_memory, check_prompts
from nemo_mcpo.rollouts.launchers import LAUNCHERS
from nemo_mcpo.rollouts.served_model import ServedModel
from nemo_mcpo.rollouts.server_environment import check_gpus, passed_on, server_environment

IMAGE_SECONDS = 600.0
"""For looking into an image, which a site may have to load first."""


def check_own_servers(
    settings: Server, models: Sequence[ServedModel], longest_prompt: int, section: str, machine: Machine
) -> list[str]:
    """What is known, in lines for the user, about servers that are started for these models one after the other.

    Raises:
        ConfigError: a program, a key or a GPU is missing, or a model does not fit.
    """
    fits = [note for model in models for note in _check_model(settings, model, longest_prompt, section, machine)]
    return fits + _check_program(settings, section, machine)


def _check_model(
    settings: Server, model: ServedModel, longest_prompt: int, section: str, machine: Machine
) -> list[str]:
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
            fix="give its path in the environment where it is installed, or urls of running servers",
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
            fix=f"correct {section}.prefix, or {section}.command to its path in the image",
        )
