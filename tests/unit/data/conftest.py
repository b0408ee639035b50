# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the data tests: a chat tokenizer, and files of records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.chat_tokenizers import FAMILIES, save_tokenizer


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tokenizer(tmp_path_factory.mktemp("llama3"), FAMILIES["llama3"])


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., str]:
    """Write records, one per line (strings are written as they are), and return the file's path."""

    def write(*records: Any, name: str = "data.jsonl") -> str:
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(tmp_path / name)

    return write
