# SPDX-License-Identifier: Apache-2.0
"""What a directory was made from and which files it holds: another recipe is refused, a damaged file is named."""

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
    """Raise where a value of ``recipe`` is not the one that is stored.

    Args:
        known: as read from JSON.
        recipe: JSON values of the same names.
        problem: what is wrong, with ``{name}`` for the first name that differs.
        where: the stored recipe's place; that name by default.
    """
    for name, value in json.loads(json.dumps(recipe)).items():
        if known.get(name) != value:
            raise error(problem.format(name=name), where=where or name, got=value, expected=known.get(name), fix=fix)


def file_sizes(directory: Path, without: str) -> dict[str, int]:
    """Bytes of every file below ``directory``, by its path there; the file named ``without`` is left out."""
    files = (file for file in sorted(directory.rglob("*")) if file.is_file() and file.name != without)
    return {str(file.relative_to(directory)): file.stat().st_size for file in files}


def first_damage(directory: Path, sizes: Mapping[str, int]) -> str | None:
    """What is wrong with the first file that is missing or of another size; None if all is well.

    A power cut, an interrupted copy and an overzealous cleanup all change names or sizes.
    """
    for name, size in sizes.items():
        file = directory / name
        if not file.is_file():
            return f"{name} is missing"
        if (found := file.stat().st_size) != size:
            return f"{name} has {found:,} bytes instead of {size:,}"
    return None
