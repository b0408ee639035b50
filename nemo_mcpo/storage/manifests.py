# SPDX-License-Identifier: Apache-2.0
"""Checks of a stored directory: it was made with the same recipe, and no file is missing or truncated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from nemo_mcpo.errors import NemoMcpoError


def refuse_another_recipe(
    known: Mapping[str, object],
    recipe: Mapping[str, object],
    error: type[NemoMcpoError],
    problem: str,
    fix: str,
    where: str | None = None,
) -> None:
    """Raise ``error`` if a value in ``recipe`` differs from the stored one.

    Args:
        known: the stored values, as read from JSON.
        recipe: the JSON values that are required.
        problem: what is wrong, with ``{name}`` for the first name that differs.
        where: where the recipe is stored; by default, the name that differs.
    """
    for name, value in json.loads(json.dumps(recipe)).items():
        if known.get(name) != value:
            raise error(problem.format(name=name), where=where or name, got=value, expected=known.get(name), fix=fix)


def file_sizes(directory: Path, without: str) -> dict[str, int]:
    """Return the bytes of every file below ``directory``, by relative path, except files named ``without``."""
    files = (file for file in sorted(directory.rglob("*")) if file.is_file() and file.name != without)
    return {str(file.relative_to(directory)): file.stat().st_size for file in files}


def first_damage(directory: Path, sizes: Mapping[str, int]) -> str | None:
    """Return what is wrong with the first file that is missing or has another size; None if there is none.

    A power failure, an interrupted copy and an overzealous cleanup all change names or sizes.
    """
    for name, size in sizes.items():
        file = directory / name
        if not file.is_file():
            return f"{name} is missing"
        if (found := file.stat().st_size) != size:
            return f"{name} has {found:,} bytes instead of {size:,}"
    return None
