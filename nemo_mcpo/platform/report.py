# SPDX-License-Identifier: Apache-2.0
"""A table about this machine: what was found, what it enables, and the fix if something is wrong.

>>> print(render((Row("psutil", "ok", "7.2.2", "distributed checkpoints"),)))
ok       psutil  7.2.2  distributed checkpoints
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FOUND_WIDTH = 44


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        status: ``ok``, ``missing`` or ``broken``.
        reason: why it is broken.
        fix: what to do; empty if there is nothing to do.
        required: whether the base stack needs it.
    """

    name: str
    status: str
    found: str
    enables: str
    reason: str = ""
    fix: str = ""
    required: bool = False


def render_facts(facts: Mapping[str, object]) -> str:
    """Return names and values in two columns.

    >>> print(render_facts({"prompts": 3, "tokens": 120}))
    prompts  3
    tokens   120
    """
    width = max(map(len, facts)) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in facts.items())


def failures(rows: Sequence[Row]) -> list[str]:
    """Return the names of the required rows that are not ok."""
    return [row.name for row in rows if row.required and row.status != "ok"]


def render(rows: Sequence[Row]) -> str:
    """Return the table as text, with reason and fix under their row."""
    name_width = max(len(row.name) for row in rows)
    found_width = min(FOUND_WIDTH, max(len(row.found) for row in rows))
    indent = " " * (len("missing") + 2 + name_width + 2)
    lines = []
    for row in rows:
        lines.append(f"{row.status:<7}  {row.name:<{name_width}}  {row.found:<{found_width}}  {row.enables}".rstrip())
        lines += [f"{indent}{label}: {text}" for label, text in (("why", row.reason), ("fix", row.fix)) if text]
    return "\n".join(lines)
