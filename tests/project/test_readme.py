# SPDX-License-Identifier: Apache-2.0
"""The README's tree has every file, with the first sentence of its docstring."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FILES = [
    path
    for folder in ("nemo_mcpo", "scripts", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "__init__.py"
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_is_in_the_tree(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    sentence = docstring.split("\n\n")[0].replace("\n", " ").replace("``", "")
    assert any(line.split() == [path.name, *sentence.split()] for line in README.splitlines())
