# SPDX-License-Identifier: Apache-2.0
"""Append-only store of samples: whatever is killed, generated samples are kept.

    DIR/manifest.json           what the samples were made from; a store with a different manifest is refused
    DIR/samples-00000.jsonl     one JSON object per line, by one writer, synced batch by batch
    DIR/complete.jsonl          every sample once, sorted by key; written atomically

A torn last line is dropped when its writer reopens the store. If a key occurs twice, its last line counts. The next
process requests samples without an answer again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.rollouts.samples import Sample, SampleKey
from nemo_mcpo.storage.append_log import AppendLog, read_lines
from nemo_mcpo.storage.atomic import write_json, write_whole
from nemo_mcpo.storage.manifests import refuse_another_recipe

MANIFEST, COMPLETE = "manifest.json", "complete.jsonl"
_SAME: dict[int, int] = {}
"""Shared token-id objects: a segment has many millions of them, and sharing equal ones saves 3/4 of the memory."""


class SampleStore:
    """One writer's view: the samples of all writers so far, and its own shard to append to.

    Args:
        directory: created if it is missing.
        manifest: what the samples are made from, as JSON values: checkpoint, prompts, sampling parameters.
        writer: number of the writer; two processes with the same number exclude each other.

    Raises:
        RolloutError: the store has a different manifest, or a line that cannot be read.
    """

    def __init__(self, directory: Path, manifest: Mapping[str, object], writer: int = 0) -> None:
        self.directory = directory
        self._shard = AppendLog(directory / f"samples-{writer:05d}.jsonl")
        _check_manifest(directory / MANIFEST, dict(manifest))
        self._places: dict[SampleKey, tuple[Path, int]] = {}
        for shard in sorted(directory.glob("samples-*.jsonl")):
            for start, sample in _read(shard):
                if not sample.problem:  # failed samples are requested again
                    self._places[sample.key] = (shard, start)
        self._files: dict[Path, BinaryIO] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Read a sample from disk; raise KeyError if there is none."""
        shard, start = self._places[key]
        if shard not in self._files:
            # Kept open as long as the store lives, since a million samples are read one by one.
            self._files[shard] = open(shard, "rb")  # noqa: SIM115
        file = self._files[shard]
        file.seek(start)
        return _parse(file.readline(), f"{shard}, byte {start}")

    def append(self, samples: Sequence[Sample]) -> None:
        """Append samples; once this returns, they survive a power failure.

        Raises:
            StorageError: they could not be written; the store is unchanged.
        """
        lines = [_line(sample) for sample in samples]
        start = self._shard.append(lines)
        for sample, line in zip(samples, lines, strict=True):
            self._places[sample.key] = (self._shard.path, start)
            start += len(line)

    def finish(self, keys: Iterable[SampleKey]) -> None:
        """Write these samples, sorted by key, to ``complete.jsonl``; raise KeyError if one is missing."""
        write_whole(self.directory / COMPLETE, (_line(self[key]) for key in sorted(keys)))


def read_manifest(directory: Path) -> dict[str, object]:
    return json.loads((directory / MANIFEST).read_text(encoding="utf-8"))


def read_complete(directory: Path) -> Iterator[Sample]:
    """Read the samples of a complete store, sorted by key."""
    path = directory / COMPLETE
    if not path.exists():
        raise RolloutError("the samples are incomplete", where=str(directory), fix="generate the rest first")
    return (sample for _, sample in _read(path))


def _line(sample: Sample) -> bytes:
    """One JSON object per sample, without fields that are None."""
    known = {one.name: value for one in fields(sample) if (value := getattr(sample, one.name)) is not None}
    return (json.dumps(known.pop("key")._asdict() | known, ensure_ascii=False) + "\n").encode()


def _parse(line: bytes, where: str) -> Sample:
    try:
        known = json.loads(line)
        key = SampleKey(*(known.pop(name) for name in SampleKey._fields))
        if (tokens := known.get("tokens")) is not None:
            known["tokens"] = tuple(map(_SAME.setdefault, tokens, tokens))
        return Sample(key, **known)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RolloutError(
            "not a sample",
            where=where,
            got=line[:60].decode(errors="replace"),
            fix="delete this line, so that it is generated again",
        ) from error


def _read(path: Path) -> Iterator[tuple[int, Sample]]:
    """The start of each complete line, and its sample."""
    for number, (start, line) in enumerate(read_lines(path), start=1):
        yield start, _parse(line, f"{path}:{number}")


def _check_manifest(path: Path, manifest: dict[str, object]) -> None:
    """Write the manifest of a new store, or refuse a store with a different one."""
    if not path.exists():
        write_json(path, manifest)
    known = read_manifest(path.parent)
    problem, fix = "the store contains samples of another {name}", "choose another directory, or delete this one"
    refuse_another_recipe(known, dict.fromkeys(known) | manifest, RolloutError, problem, fix, where=str(path.parent))
