# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of models: one process, and a small Llama on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.models.huggingface.conftest import one_process, save_model

__all__ = ["llama_directory", "one_process"]


@pytest.fixture(scope="session")
def llama_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small Llama with two layers and a vocabulary of 300, which is padded to 384."""
    directory = tmp_path_factory.mktemp("small") / "llama"
    save_model(directory, "llama")
    return directory
