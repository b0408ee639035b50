# SPDX-License-Identifier: Apache-2.0
"""Checks of what a server needs to start: its program, its API key, its GPUs, and memory for its models."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from nemo_mcpo.config import Server
from nemo_mcpo.config.online import api_key
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.rollouts.fit import Machine, check_layout, check_memory, check_prompts
from nemo_mcpo.rollouts.launchers import launcher_of
from nemo_mcpo.rollouts.served_model import ServedModel
from nemo_mcpo.rollouts.server_environment import check_gpus, passed_on, server_environment

IMAGE_SECONDS = 600.0
"""Time limit for looking into an image, which a site may have to load first."""


def check_own_servers(
    settings: Server, models: Sequence[ServedModel], longest_prompt: int, section: str, machine: Machine
) -> list[str]:
    """Check servers that are started for each of these models in turn, and return notes for the user.

    Raises:
        ConfigError: a program, a key or a GPU is missing, or a model does not fit.
    """
    api_key(settings, section)
    check_gpus(settings, machine.gpus, section)
    if machine.is_here:
        passed_on(settings, section)
    notes = []
    for model in models:
        if launcher_of(settings).parallel:
            check_layout(settings, model, section)
            check_prompts(settings, longest_prompt, section)
        if not machine.gpus:
            continue
        if machine.gibibytes is None:
            notes.append(f"{section}: GPU memory is unknown here, so whether the model fits is not checked")
        else:
            notes.append(check_memory(settings, model, machine.gibibytes, section))
    return notes + _check_program(settings, section, machine)


def _check_program(settings: Server, section: str, machine: Machine) -> list[str]:
    """Check that the program exists, on this machine or behind ``prefix``."""
    if not machine.is_here:
        return [f"{section}: {settings.command[0]} is checked where the servers run, not here"]
    first = settings.prefix[0] if settings.prefix else settings.command[0]
    if shutil.which(first) is None:
        raise ConfigError(
            "program not found",
            where=f"{section}.{'prefix' if settings.prefix else 'command'}",
            got=first,
            fix="set it to the program's path in its Python environment, or set urls to running servers",
        )
    if settings.prefix:
        _look_behind(settings, section)
    return []


def _look_behind(settings: Server, section: str) -> None:
    """Look for the program where ``prefix`` leads: in a container, or in a Slurm step with another image."""
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
            "program not found behind the prefix",
            where=f"{section}.prefix",
            got=f"{' '.join([*settings.prefix, settings.command[0]])}: {problem}",
            fix=f"correct {section}.prefix, or set {section}.command to the program's path in the image",
        )
