# SPDX-License-Identifier: Apache-2.0
"""Data flows one way: a room imports only rooms before it, few import megatron, and importing the package is light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nemo_mcpo

ROOT = Path(__file__).parents[2]
PACKAGE = "nemo_mcpo"
BENCHMARKS = "benchmarks"
"""A room that is not installed: a package in ``scripts/``, next to the commands that import it."""

ROOMS = (*nemo_mcpo.ROOMS, BENCHMARKS)

MEGATRON_ROOMS = {"platform", "trees", "models", BENCHMARKS}

HEAVY = {"torch", "megatron", "nemo", "transformers", "datasets", "pandas", "lightning"}

FILES = sorted([*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "scripts" / BENCHMARKS).rglob("*.py")])


def room_of(file: Path) -> str:
    """Return ``data`` for ``nemo_mcpo/data/formats/nectar.py``, and an empty string for ``nemo_mcpo/__init__.py``."""
    room = file.relative_to(ROOT).parts[1].removesuffix(".py")
    return "" if room == "__init__" else room


def imported_room(name: str) -> str | None:
    """Return ``data`` for ``nemo_mcpo.data.formats``, an empty string for ``nemo_mcpo``, None for other packages."""
    top, _, rest = name.partition(".")
    return {PACKAGE: rest.partition(".")[0], BENCHMARKS: BENCHMARKS}.get(top)


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and dotted name of every import in a file, including those inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{prefix}.{alias.name}") for alias in node.names)


def allowed_rooms(file: Path) -> tuple[str, ...]:
    room = room_of(file)
    return ROOMS[: ROOMS.index(room) + 1] if room else ()


def test_every_room_is_in_the_order():
    assert {room_of(file) for file in FILES} == {*ROOMS, ""}, "ROOMS lists every room once, and no other"


def test_a_room_imports_only_itself_and_rooms_before_it():
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in FILES
        for line, name in imports(file)
        if imported_room(name) not in (None, *allowed_rooms(file))
    ]
    assert wrong == []


def test_only_some_rooms_import_megatron():
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in FILES
        if room_of(file) not in MEGATRON_ROOMS
        for line, name in imports(file)
        if name.split(".")[0] == "megatron"
    ]
    assert wrong == []


def test_no_relative_imports():
    relative = [f"{file.relative_to(ROOT)}:{line}" for file in FILES for line, name in imports(file) if name[0] == "."]
    assert relative == []


@pytest.mark.parametrize(
    "module",
    [
        PACKAGE,
        *(f"{PACKAGE}.{name}" for name in ("records", "errors", "platform.doctor", "planning.tables")),
        *(f"{PACKAGE}.storage.{path.stem}" for path in sorted((ROOT / PACKAGE / "storage").glob("*.py"))),
    ],
)
def test_importing_loads_nothing_heavy(module):
    program = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert PACKAGE in loaded
    assert not loaded & HEAVY
