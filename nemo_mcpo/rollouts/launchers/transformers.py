# SPDX-License-Identifier: Apache-2.0
"""Launcher ``transformers``: the server of transformers, on one GPU or the CPU."""

from __future__ import annotations

from pathlib import Path

from nemo_mcpo.config import Server
from nemo_mcpo.rollouts.launchers.launcher import HOST, Launcher, words


def _command(model: str, port: int, settings: Server, files: Path) -> list[str]:
    """``transformers serve`` (5.23 or later) on a Hugging Face directory."""
    return [*settings.command, "serve", model, *words({"--host": HOST, "--port": port}), *settings.arguments]


TRANSFORMERS = Launcher(
    _command,
    parallel=False,
    warm={"generation_config": '{"do_sample": true}'},
    loads_by_name=True,
)
