# SPDX-License-Identifier: Apache-2.0
"""Tokenized prompts with their completions on disk, memory-mapped for random access at any size.

tokens.bin              int32, little-endian: prompt, completion 0, completion 1, … of row 0, then of row 1, …
sequence_offsets.npy    int64 [rows + completions + 1]: where each of these sequences begins in tokens.bin
completion_offsets.npy  int64 [rows + 1]: row i's completions have the flat numbers offsets[i] … offsets[i + 1] - 1
prompt_ids.npy          int64 [rows]: hash of the row's tokens
scores.npy              float32 [completions], NaN = none; only if the data has scores
lost_tokens.npy         int32 [rows + completions]: tokens cut from each sequence; only if something was cut
sources.bin, source_offsets.npy    the source of each row (file:line), UTF-8
dropped.jsonl           the records that were not used: source, reason, detail
meta.json               the fingerprint and its recipe, the report, and the size of every file above
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nemo_mcpo.errors import DataError
from nemo_mcpo.records import PromptTree
from nemo_mcpo.storage.atomic import sync_tree
from nemo_mcpo.storage.manifests import file_sizes, first_damage

LAYOUT_VERSION = 2

_TOKEN = np.dtype("<i4")


@dataclass(frozen=True, slots=True)
class PreparationReport:
    """The size of a dataset, and what its preparation dropped and cut.

    Attributes:
        prompts, completions: how many there are.
        prompt_tokens, completion_tokens: their tokens.
        dropped: number of dropped records by reason.
        truncated_prompts, truncated_answers: prompts and responses that were cut to the limits.
        repeated_answers: responses left out because an earlier one to the same prompt has the same tokens.
    """

    prompts: int
    completions: int
    prompt_tokens: int
    completion_tokens: int
    dropped: Mapping[str, int]
    truncated_prompts: int
    truncated_answers: int
    repeated_answers: int

    @property
    def tokens(self) -> int:
        """Tokens on disk, each prompt counted once."""
        return self.prompt_tokens + self.completion_tokens


class PreparedDataset:
    """A prepared dataset, opened read-only; ``dataset[i]`` is a PromptTree."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        meta = _read_meta(self.directory)
        self.fingerprint: str = meta["fingerprint"]
        self.recipe: dict[str, Any] = meta["recipe"]
        self.report = PreparationReport(**meta["report"])
        self.completion_offsets: np.ndarray = self._load("completion_offsets.npy")
        self._sequence_offsets = self._load("sequence_offsets.npy")
        self._prompt_ids = self._load("prompt_ids.npy")
        self._source_offsets = self._load("source_offsets.npy")
        self._scores = self._load("scores.npy") if "scores.npy" in meta["files"] else None
        self._lost = self._load("lost_tokens.npy") if "lost_tokens.npy" in meta["files"] else None
        self._tokens = np.memmap(self.directory / "tokens.bin", dtype=_TOKEN, mode="r")
        self._sources = np.memmap(self.directory / "sources.bin", dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self._prompt_ids)

    def __getitem__(self, index: int) -> PromptTree:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index = int(index)
        first, last = (int(offset) for offset in self.completion_offsets[index : index + 2])
        bounds = self._sequence_offsets[first + index : last + index + 2]
        tokens = np.array(self._tokens[bounds[0] : bounds[-1]], dtype=np.int32)
        prompt, *completions = np.split(tokens, bounds[1:-1] - bounds[0])
        scores = None if self._scores is None else np.array(self._scores[first:last])
        if scores is not None and np.isnan(scores).any():
            scores = None
        return PromptTree(int(self._prompt_ids[index]), index, prompt, tuple(completions), scores)

    def source(self, index: int) -> str:
        """Return where row ``index`` came from: ``file:line`` or ``file:row``."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        start, stop = self._source_offsets[index : index + 2]
        return bytes(self._sources[start:stop]).decode()

    def lost_tokens(self, index: int) -> list[int]:
        """Return how many tokens were cut from the prompt of row ``index`` and from each of its completions."""
        first, last = (int(offset) for offset in self.completion_offsets[index : index + 2])
        if self._lost is None:
            return [0] * (1 + last - first)
        return self._lost[first + index : last + index + 1].tolist()

    @property
    def dropped_path(self) -> Path:
        """The list of the records that were not used."""
        return self.directory / "dropped.jsonl"

    @cached_property
    def num_completions(self) -> np.ndarray:
        """Completions of each prompt, int64 ``[rows]``."""
        return np.diff(self.completion_offsets)

    @cached_property
    def is_scored(self) -> np.ndarray:
        """Rows whose completions all have a score, bool ``[rows]``."""
        if self._scores is None:
            return np.zeros(len(self), bool)
        return ~np.logical_or.reduceat(np.isnan(self._scores), self.completion_offsets[:-1])

    @cached_property
    def prompt_lengths(self) -> np.ndarray:
        """Tokens of each prompt, int64 ``[rows]``."""
        return np.diff(self._sequence_offsets)[self._prompt_sequences]

    @cached_property
    def completion_lengths(self) -> np.ndarray:
        """Tokens of each completion by flat number, int64 ``[completions]``."""
        return np.delete(np.diff(self._sequence_offsets), self._prompt_sequences)

    @cached_property
    def tree_lengths(self) -> np.ndarray:
        """Tokens of each prompt with all its completions, int64 ``[rows]``."""
        return np.diff(self._sequence_offsets[np.append(self._prompt_sequences, -1)])

    def lengths_with(self, num_others: int) -> np.ndarray:
        """Return an upper bound on each row's tokens: prompt, preferred completion, and this many of the longest."""
        first = self.completion_offsets[:-1]
        longest = np.maximum.reduceat(self.completion_lengths, first)
        return self.prompt_lengths + self.completion_lengths[first] + num_others * longest

    @property
    def _prompt_sequences(self) -> np.ndarray:
        return self.completion_offsets[:-1] + np.arange(len(self))

    def _load(self, name: str) -> np.ndarray:
        try:
            return np.load(self.directory / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _damaged(self.directory, f"{name} cannot be read") from error


class PreparedWriter:
    """Writes a prepared dataset to ``directory``, which must be empty; it can be opened after ``finish``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = ExitStack()  # close() closes it, so ruff's rule does not apply to the next three lines
        self._tokens = self._files.enter_context(open(directory / "tokens.bin", "wb"))  # noqa: SIM115
        self._sources = self._files.enter_context(open(directory / "sources.bin", "wb"))  # noqa: SIM115
        self._dropped = self._files.enter_context(open(directory / "dropped.jsonl", "w", encoding="utf-8"))  # noqa: SIM115
        self._sequence_offsets, self._completion_offsets = array("q", [0]), array("q", [0])
        self._source_offsets, self._prompt_ids = array("q", [0]), array("q")
        self._scores, self._lost = array("f"), array("i")
        self._has_scores = False
        self._prompt_tokens = 0

    def __len__(self) -> int:
        return len(self._prompt_ids)

    @property
    def num_tokens(self) -> int:
        """Number of tokens written so far."""
        return self._sequence_offsets[-1]

    def add(
        self,
        source: str,
        prompt: np.ndarray,
        completions: tuple[np.ndarray, ...],
        scores: list[float | None],
        lost: Sequence[int] = (),
    ) -> None:
        """Append one row; scores are kept only if every completion has one.

        Args:
            lost: how many tokens were cut from the prompt and from each completion; empty = none.
        """
        sequences = (prompt, *completions)
        tokens = np.concatenate(sequences).astype(_TOKEN, copy=False).tobytes()
        self._tokens.write(tokens)
        offset = self._sequence_offsets[-1]
        for sequence in sequences:
            offset += len(sequence)
            self._sequence_offsets.append(offset)
        self._completion_offsets.append(self._completion_offsets[-1] + len(completions))
        self._prompt_ids.append(_prompt_id([len(sequence) for sequence in sequences], tokens))
        known = [score for score in scores if score is not None]
        scored = 0 < len(known) == len(completions)
        self._has_scores |= scored
        self._scores.extend(known if scored else [float("nan")] * len(completions))
        encoded = source.encode()
        self._sources.write(encoded)
        self._source_offsets.append(self._source_offsets[-1] + len(encoded))
        self._prompt_tokens += len(prompt)
        self._lost.extend(lost or [0] * len(sequences))

    def drop(self, source: str, reason: str, detail: str) -> None:
        """List one record that is not used."""
        self._dropped.write(json.dumps({"source": source, "reason": reason, "detail": detail}) + "\n")

    def finish(self, recipe: dict[str, Any], *, dropped: Mapping[str, int], repeated_answers: int = 0) -> None:
        """Write and sync all files to disk, ``meta.json`` last."""
        arrays: dict[str, np.ndarray] = {
            "sequence_offsets.npy": np.array(self._sequence_offsets, dtype=np.int64),
            "completion_offsets.npy": np.array(self._completion_offsets, dtype=np.int64),
            "source_offsets.npy": np.array(self._source_offsets, dtype=np.int64),
            "prompt_ids.npy": np.array(self._prompt_ids, dtype=np.int64),
        }
        if self._has_scores:
            arrays["scores.npy"] = np.array(self._scores, dtype=np.float32)
        lost = np.array(self._lost, dtype=np.int32)
        if lost.any():
            arrays["lost_tokens.npy"] = lost
        is_prompt = np.zeros(len(lost), dtype=bool)
        is_prompt[arrays["completion_offsets.npy"][:-1] + np.arange(len(self))] = True
        for name, values in arrays.items():
            np.save(self._directory / name, values, allow_pickle=False)
        self.close()
        report = PreparationReport(
            prompts=len(self),
            completions=self._completion_offsets[-1],
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._sequence_offsets[-1] - self._prompt_tokens,
            dropped=dict(sorted(dropped.items())),
            truncated_prompts=int((lost[is_prompt] > 0).sum()),
            truncated_answers=int((lost[~is_prompt] > 0).sum()),
            repeated_answers=repeated_answers,
        )
        files = file_sizes(self._directory, without="meta.json")
        meta = {"fingerprint": fingerprint_of(recipe), "recipe": recipe, "report": asdict(report), "files": files}
        (self._directory / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
        sync_tree(self._directory)

    def close(self) -> None:
        self._files.close()


def fingerprint_of(recipe: Mapping[str, Any]) -> str:
    """Return a hash of everything that determines a prepared dataset's content."""
    text = json.dumps({"layout": LAYOUT_VERSION, **recipe}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _prompt_id(lengths: list[int], tokens: bytes) -> int:
    # Lengths are hashed too, because the same tokens split at another place are another prompt.
    header = np.array([len(lengths), *lengths], dtype="<i8").tobytes()
    digest = hashlib.blake2b(header + tokens, digest_size=8).digest()
    return int.from_bytes(digest, "little") & (2**63 - 1)


def _read_meta(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        fix = "run scripts/prepare_data.py, or start training, which does the same"
        raise DataError("no such prepared dataset", where=str(directory), fix=fix)
    try:
        meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        if meta["fingerprint"] != fingerprint_of(meta["recipe"]):
            raise _damaged(directory, "written by another version, or meta.json was edited")
        sizes = dict(meta["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(directory, "meta.json is missing or unreadable") from error
    if (damage := first_damage(directory, sizes)) is not None:
        raise _damaged(directory, damage)
    return meta


def _damaged(directory: Path, got: str) -> DataError:
    fix = "delete this directory; the next run writes it again"
    return DataError("the prepared dataset is damaged", where=str(directory), got=got, fix=fix)
