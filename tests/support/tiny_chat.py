# SPDX-License-Identifier: Apache-2.0
"""A small model of random weights with a chat template, as a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

from nemo_mcpo.models.huggingface.tiny import make_tiny_model


def tiny_chat_model(folder: Path) -> Path:
    """Its directory, in ``folder``."""
    (folder / "texts.txt").write_text("A question, and its answer.\n" * 50)
    make_tiny_model(folder / "texts.txt", folder / "tiny", "1m", seed=1)
    return folder / "tiny"
