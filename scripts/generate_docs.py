# SPDX-License-Identifier: Apache-2.0
"""Rewrites the generated parts of the docs: rooms in README.md, file tree in docs/architecture.md, docs/variants.md.

    python scripts/generate_docs.py

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``. Its sentences are the first
paragraphs of docstrings, or of the opening comments of shell scripts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nemo_mcpo
from nemo_mcpo.data.formats import FORMATS
from nemo_mcpo.errors import DataError
from nemo_mcpo.judging.judges import JUDGES
from nemo_mcpo.models.huggingface.families import FAMILIES
from nemo_mcpo.objectives import OBJECTIVES
from nemo_mcpo.platform.command import run_command
from nemo_mcpo.rollouts.engines import ENGINES
from nemo_mcpo.rollouts.launchers import LAUNCHERS
from nemo_mcpo.sampling import SAMPLERS
from nemo_mcpo.variant import Need, parameters_of

ROOT = Path(__file__).resolve().parents[1]
ROOMS = [*(Path("nemo_mcpo") / room for room in nemo_mcpo.ROOMS), Path("scripts/benchmarks")]
TREE = ("nemo_mcpo", "examples", "scripts", "slurm")
FOLDERS = {
    "nemo_mcpo": "The installed package.",
    "examples": "The two training commands; every configuration key is explained in conf/*.yaml.",
    "scripts": "Every other command, one file each.",
    "slurm": "Job scripts for a cluster; site.env.example lists what differs between sites.",
}
"""Sentences for folders without an ``__init__.py``."""


def main(argv: Sequence[str]) -> None:
    for name in DOCUMENTS:
        path = ROOT / name
        text = generated(name)
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")


def generated(name: str) -> str:
    """The document with its generated part made anew."""
    text = (ROOT / name).read_text(encoding="utf-8")
    part, make = DOCUMENTS[name]
    pattern = re.compile(rf"(<!-- generated: {part} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(text):
        raise DataError("no generated part", where=name, expected=f"<!-- generated: {part} --> … <!-- end -->")
    return pattern.sub(lambda found: f"{found[1]}{make()}\n{found[2]}", text)


def rooms() -> str:
    """A table row for each room, in the order in which they may import each other."""
    rows = []
    for room in ROOMS:
        folder = (ROOT / room).is_dir()
        shown, described = (room, room / "__init__.py") if folder else (room.with_suffix(".py"),) * 2
        rows.append(f"| [`{room.name}`]({shown}) | {sentence(described)} |")
    return "\n".join(["| room | what it is |", "|---|---|", *rows])


def file_tree() -> str:
    """Every program and module with its sentence; rooms in the order in which they may import each other."""
    lines = [line for top in TREE for line in _folder(Path(top), 0)]
    return "\n".join(["```", *lines, "```"])


def _folder(folder: Path, depth: int) -> Iterator[str]:
    yield _line(f"{folder.name}/", depth, FOLDERS.get(str(folder)) or sentence(folder / "__init__.py"))
    inside = sorted((path.relative_to(ROOT) for path in (ROOT / folder).iterdir()), key=_order)
    for path in inside:
        if path.suffix in (".py", ".sh") and path.name != "__init__.py":
            yield _line(path.name, depth + 1, sentence(path))
        elif (ROOT / path / "__init__.py").is_file():
            yield from _folder(path, depth + 1)


def _order(path: Path) -> tuple:
    """Rooms in their order; elsewhere files, then folders, by name."""
    is_room = path.with_suffix("") in ROOMS
    return (ROOMS.index(path.with_suffix("")) if is_room else 0, (ROOT / path).is_dir(), path.name)


def _line(name: str, depth: int, text: str) -> str:
    return f"{'  ' * depth + name:<30} {text}"


def sentence(path: Path) -> str:
    """The first paragraph of a module's docstring, or of a shell script's opening comment."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.suffix == ".py":
        opening = ast.get_docstring(ast.parse(text)) or ""
    else:
        skipped = ("#!", "# shellcheck", "# SPDX")
        lines = [line for line in text.splitlines() if not line.startswith(skipped)]
        opening = "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#") or not line)
    return " ".join(opening.split("\n\n")[0].replace("``", "").split())


def variants() -> str:
    """A table for each kind of variant, from the entries themselves."""
    parts = []
    for title, key, table, function in KINDS:
        rows = [_variant_row(name, one, function(one)) for name, one in table.items()]
        parts += [
            f"## {title}",
            "",
            f"Chosen by {key}.",
            "",
            "| name | what it is | needs | parameters |",
            "|---|---|---|---|",
        ]
        parts += [*rows, ""]
    families = (
        f"| `{name}` | {', '.join(f'`{one}`' for one in family.architectures)} |" for name, family in FAMILIES.items()
    )
    parts += ["## Model families", "", "Chosen by `model_type` in the checkpoint's `config.json`.", ""]
    return "\n".join([*parts, "| `model_type` | architectures |", "|---|---|", *families])


def _variant_row(name: str, one: object, function: Callable[..., Any]) -> str:
    path = Path(*function.__module__.split(".")).with_suffix(".py")
    needs = ", ".join(need.value for need in Need if need in getattr(one, "needs", ()))
    parameters = ", ".join(
        f"`{key}`" if field.is_required() else f"`{key}` ({field.default})"
        for key, field in parameters_of(function).model_fields.items()
    )
    return f"| [`{name}`](../{path}) | {sentence(path)} | {needs} | {parameters} |"


KINDS: tuple[tuple[str, str, Mapping[str, Any], Callable[[Any], Callable[..., Any]]], ...] = (
    ("Objectives", "`model.mcpo.objective`", OBJECTIVES, lambda one: one.function),
    ("Samplers", "`model.mcpo.sampler`", SAMPLERS, lambda one: one.function),
    ("Data formats", "`model.data.format`", FORMATS, lambda one: one.prompt),
    ("Rollout engines", "`rollouts.engine`", ENGINES, lambda one: one.build),
    ("Judges", "`judge.kind`", JUDGES, lambda one: one.build),
    (
        "Server launchers",
        "`rollouts.server.launcher` and `judge.server.launcher`",
        LAUNCHERS,
        lambda one: one.command,
    ),
)
"""Title, key, table, and the function of an entry."""

DOCUMENTS: dict[str, tuple[str, Callable[[], str]]] = {
    "README.md": ("rooms", rooms),
    "docs/architecture.md": ("file tree", file_tree),
    "docs/variants.md": ("variants", variants),
}
"""Each document with a generated part: its name, and what makes it."""


if __name__ == "__main__":
    run_command(main)
