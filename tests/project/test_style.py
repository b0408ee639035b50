# SPDX-License-Identifier: Apache-2.0
"""Rules that no linter checks: license headers, sizes of files and functions, file names, leftovers."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("nemo_mcpo", "examples", "scripts", "slurm", "tests", ".ci")
HEADER = "# SPDX-License-Identifier: Apache-2.0"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 75
VAGUE_NAMES = {"utils.py", "util.py", "helpers.py", "helper.py", "misc.py", "common.py"}
LEFTOVERS = re.compile(r"\b(TO" r"DO|FIX" r"ME)\b")


def files_with(*suffixes: str) -> list[Path]:
    """Return the files in the repository with one of these suffixes, sorted."""
    found = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.suffix in suffixes]
    top = [file for file in ROOT.iterdir() if file.suffix in suffixes]
    return sorted(file for file in found + top if file.is_file() and "__pycache__" not in file.parts)


PYTHON_FILES = files_with(".py")
SOURCE_FILES = files_with(".py", ".sh", ".yaml", ".yml", ".toml", ".lock")


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def lines_of(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def syntax_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def has_header(file: Path) -> bool:
    """Return whether the license is the first line, after lines that a program must read first."""
    opening = [line for line in lines_of(file)[:3] if not line.startswith(("#!", "# shellcheck "))]
    return opening[:1] == [HEADER]


def test_the_repository_is_found():
    assert {"setup.py", "nemo_mcpo/records.py", "scripts/environment.sh"} <= {name(file) for file in SOURCE_FILES}


def test_license_header():
    assert [name(file) for file in SOURCE_FILES if not has_header(file)] == [], f"first line: {HEADER}"


def test_files_are_short():
    lengths = {name(file): len(lines_of(file)) for file in PYTHON_FILES}
    assert {file: length for file, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_are_short():
    lengths = {
        f"{name(file)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for file in PYTHON_FILES
        for node in ast.walk(syntax_of(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {function: length for function, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_files_are_named_after_what_they_hold():
    assert [name(file) for file in PYTHON_FILES if file.name in VAGUE_NAMES] == []


def test_modules_say_what_they_are():
    modules = [file for file in PYTHON_FILES if not name(file).startswith("tests/")]
    assert [name(file) for file in modules if not ast.get_docstring(syntax_of(file))] == []


def test_no_leftovers():
    files = [*SOURCE_FILES, *files_with(".md")]
    found = [
        f"{name(file)}:{number}"
        for file in files
        for number, line in enumerate(lines_of(file), start=1)
        if LEFTOVERS.search(line)
    ]
    assert found == []
