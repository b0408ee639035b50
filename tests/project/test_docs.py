# SPDX-License-Identifier: Apache-2.0
"""What a program can check in the docs: generated parts, links, names of files and functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import generate_docs

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
MAX_README_LINES = 150
FILES = [
    path
    for folder in ("nemo_mcpo", "scripts", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "__init__.py"
]
FOREIGN = {"servers.md", "online.md"}
"""Documents that name files in other projects."""
OMITTED = ("", "nemo_mcpo", "examples/conf")
"""Folders that a document may omit from the path of a file."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def outside_code(document: Path) -> str:
    """Return the text without code blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_is_in_the_tree(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    sentence = docstring.split("\n\n")[0].replace("\n", " ").replace("``", "")
    tree = ARCHITECTURE.read_text(encoding="utf-8")
    if not any(line.split() == [path.name, *sentence.split()] for line in tree.splitlines()):
        pytest.fail(f"{path.name} is not in the tree as it is: run python scripts/generate_docs.py")


@pytest.mark.parametrize("name", generate_docs.DOCUMENTS)
def test_generated_parts_are_up_to_date(name):
    if generate_docs.generated(name) != (ROOT / name).read_text(encoding="utf-8"):
        pytest.fail(f"{name} is out of date: run python scripts/generate_docs.py")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub makes from the headings."""
    headings = re.findall(r"^#+ (.*)$", outside_code(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(document: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)]*)\)", outside_code(document)):
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        if not path.startswith("https://") and (not file.exists() or (anchor and anchor not in anchors(file))):
            yield target


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_work(document):
    assert list(broken(document)) == []


@pytest.mark.parametrize("document", [one for one in DOCUMENTS if one.name not in FOREIGN], ids=name_of)
def test_named_files_exist(document):
    named = re.findall(
        r"`(?!results/)([\w./-]+/[\w.-]+\.(?:py|sh|md|yaml|lock))`", document.read_text(encoding="utf-8")
    )
    assert [path for path in named if not any((ROOT / part / path).exists() for part in OMITTED)] == []


def definitions(file: Path) -> set[str]:
    """Return the functions, classes, methods and tables in a module."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {ast.unparse(target) for target in targets}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            methods = [one.name for one in ast.iter_child_nodes(node) if isinstance(one, ast.FunctionDef)]
            found |= {node.name, *(f"{node.name}.{method}" for method in methods)}
    return found


@pytest.mark.parametrize("document", [ARCHITECTURE, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_functions_are_in_the_files_named_beside_them(document):
    said = re.findall(r"`([\w.]+)` (?:\(|in )\[`([\w/.]+)`\]\(([\w/.]+)\)", document.read_text(encoding="utf-8"))
    files = {target: (document.parent / target).resolve() for _, _, target in said}
    assert len(said) > 5
    assert [one for one in said if not name_of(files[one[2]]).endswith(one[1])] == []
    assert [one for one in said if one[0] not in definitions(files[one[2]])] == []
