# SPDX-License-Identifier: Apache-2.0
"""Opens ``data`` and streams its rows: JSON, parquet, a ``save_to_disk`` directory, or a Hugging Face hub dataset.

Reading a local path never uses the network or a cache directory. A hub name is ``owner/name`` or ``owner/name:split``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from pyarrow import parquet

from nemo_mcpo.data.formats.json_rows import read_json_rows
from nemo_mcpo.errors import DataError

Row = dict[str, Any]

_BATCH = 256
_BLOCK = 1 << 20
_SUFFIXES = (".parquet", ".json", ".jsonl")
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::([\w.-]+))?")
_ACCEPTED = "a .parquet, .json or .jsonl file, a save_to_disk directory, or a hub name (owner/name)"


def read_rows(data: str) -> Iterator[tuple[str, Row]]:
    """Yield ``(source, row)``; the source is ``file:line`` for JSON, ``file:row`` otherwise, counted from 1."""
    check_exists(data)
    rows: Iterable[Row]
    if _is_hub_name(data):
        rows = _load_hub(data)
    elif Path(data).is_dir():
        rows = _load_directory(data)
    elif data.endswith(".parquet"):
        rows = _parquet_rows(data)
    else:
        yield from ((f"{data}:{line}", row) for line, row in read_json_rows(data))
        return
    for number, row in enumerate(rows, start=1):
        yield f"{data}:{number}", without_nulls(row)


def without_nulls(value: Any) -> Any:
    """Return a value without keys that hold None, at any depth: Arrow gives every object the keys of all others."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def check_exists(data: str) -> None:
    """Raise DataError if ``data`` cannot be read, before any slow work starts."""
    path = Path(data)
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise DataError("unknown file type", where=data, got=path.suffix or "no suffix", expected=_ACCEPTED)
        if path.stat().st_size == 0:
            raise DataError("the file is empty", where=data, expected=_ACCEPTED, fix="give a file with records")
    elif path.is_dir():
        if not ((path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()):
            fix = "give one of its files, or save the dataset with datasets' save_to_disk"
            raise DataError("not a directory written by save_to_disk", where=data, expected=_ACCEPTED, fix=fix)
    elif not _is_hub_name(data):
        raise DataError("no such file", where=data, expected=_ACCEPTED, fix="check the path")


def count_rows(data: str) -> int | None:
    """Return the number of rows of ``data`` if that is cheap to find, else None; for the progress bar."""
    if Path(data).is_dir():
        return len(_load_directory(data))
    if Path(data).is_file() and data.endswith(".parquet"):
        return _open_parquet(data).metadata.num_rows
    if Path(data).is_file() and data.endswith(".jsonl"):
        with open(data, "rb") as file:
            return sum(1 for _ in file)
    return None


def content_hash(data: str) -> str:
    """Return a hash of the bytes that ``read_rows`` reads, or the revision of a hub dataset."""
    path = Path(data)
    if _is_hub_name(data):
        return _hub_revision(data)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return hash_files(path, files)


def hash_files(root: Path, files: list[Path]) -> str:
    """Return one hash of the names (relative to ``root``) and the contents of ``files``."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        name = file.relative_to(root).as_posix() if file != root else ""
        digest.update(json.dumps([name, file.stat().st_size]).encode())
        with open(file, "rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _parquet_rows(data: str) -> Iterator[Row]:
    # pyarrow instead of datasets, which uses it too: no cache directory, and batches instead of whole row groups.
    try:
        for batch in _open_parquet(data).iter_batches(_BATCH):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_parquet(data, error) from error


def _open_parquet(data: str) -> parquet.ParquetFile:
    try:
        return parquet.ParquetFile(data)
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_parquet(data, error) from error


def _not_parquet(data: str, error: Exception) -> DataError:
    return DataError("not a readable parquet file", where=data, got=str(error)[:120], fix="download or write it again")


def _load_directory(data: str) -> datasets.Dataset:
    try:
        loaded = datasets.load_from_disk(data)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        fix = "save it again with datasets' save_to_disk"
        raise DataError("not a readable datasets directory", where=data, got=str(error)[:120], fix=fix) from error
    if isinstance(loaded, datasets.Dataset):
        return loaded
    return loaded[_choose_split(data, list(loaded), f"give the split's own directory, such as {data}/NAME")]


def _is_hub_name(data: str) -> bool:
    if not _HUB_NAME.fullmatch(data) or data.endswith(_SUFFIXES):
        return False
    # A mistyped local path must not become a request to the hub; its first folder usually exists.
    return not Path(data).exists() and not Path(data.split("/")[0]).is_dir()


def _hub_parts(data: str) -> tuple[str, str | None]:
    name, split = _HUB_NAME.fullmatch(data).groups()  # type: ignore[union-attr]
    return name, split


def _load_hub(data: str) -> Iterator[Row]:
    name, split = _hub_parts(data)
    try:
        splits = datasets.load_dataset(name, streaming=True, revision=_hub_revision(data))
        split = split or _choose_split(data, list(splits), f"name one, such as {name}:NAME")
        if split not in splits:
            fix = f"name an existing split, such as {name}:{next(iter(splits))}"
            raise DataError("no such split", where=data, got=split, expected=f"one of {list(splits)}", fix=fix)
        yield from splits[split]
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise _not_reachable(data, error) from error


def _hub_revision(data: str) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(_hub_parts(data)[0]).sha)
    except (OSError, ValueError) as error:
        raise _not_reachable(data, error) from error


def _not_reachable(data: str, error: Exception) -> DataError:
    got = " ".join(str(error).split())[:120]
    fix = "check the name; if there is no network, download the dataset first and give its local path"
    return DataError("neither a local file nor a reachable hub dataset", where=data, got=got, fix=fix)


def _choose_split(data: str, names: list[str], fix: str) -> str:
    if "train" in names:
        return "train"
    if len(names) == 1:
        return names[0]
    raise DataError("several splits, and none is named train", where=data, got=names, fix=fix)
