# SPDX-License-Identifier: Apache-2.0
"""All text in a data file of any schema, to train a tokenizer on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as parquet

from nemo_mcpo.errors import DataError

NOT_TEXT = frozenset({"role", "model", "source", "id", "prompt_id", "dataset"})
"""Fields whose strings are labels of a record rather than text."""


def read_texts(file: str | Path) -> Iterator[str]:
    """Yield the strings of a file, record by record: parquet, JSON lines, a JSON array, or plain text."""
    file = Path(file)
    if not file.is_file():
        raise DataError("the file does not exist", where=str(file), fix="check the path")
    for record in READERS.get(file.suffix, _plain_text)(file):
        yield from _strings(record)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in NOT_TEXT:
                yield from _strings(item)


def _parquet(file: Path) -> Iterator[object]:
    try:
        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        raise DataError("cannot read the parquet file", where=str(file), got=error) from error


def _json_lines(file: Path) -> Iterator[object]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise DataError("not JSON", where=f"{file}:{number}", got=error) from error


def _json_array(file: Path) -> Iterator[object]:
    try:
        yield json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError("not JSON", where=str(file), got=error) from error


def _plain_text(file: Path) -> Iterator[object]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        yield from lines


READERS: dict[str, Callable[[Path], Iterator[object]]] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".json": _json_array,
}
