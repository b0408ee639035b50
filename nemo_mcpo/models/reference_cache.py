# SPDX-License-Identifier: Apache-2.0
"""Reference log-probs: every completion scored once by the initial policy, kept on disk beside the prepared data.

The file is a log of checksummed chunks, appended and synced one at a time: an interrupted pass continues where it
stopped, a torn last chunk is dropped, nothing is ever overwritten. Chunks are cut greedily from the sorted list of
what is missing, so that a continued pass scores the same chunks, to the same bits, as an uninterrupted one.

    chunk = magic | number of prompts | number of log-probs | crc32 | prompt indices, int64 | log-probs, float32
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.platform.distributed import is_rank_zero
from nemo_mcpo.records import PromptTree

_HEADER = struct.Struct("<4sIII")
_MAGIC = b"RLP1"
MAX_PROMPTS_PER_CHUNK = 256


class ReferenceCache:
    """Log-probs of one prepared dataset under one set of weights, in nats.

    Args:
        directory: the prepared dataset's directory.
        key: names the weights and the precision (see ``reference_key``); another key is another file.
        completion_offsets: ``[prompts + 1]``, numbers of the completions of each prompt.
    """

    def __init__(self, directory: Path, key: str, completion_offsets: np.ndarray) -> None:
        self.path = directory / "reference" / f"{key}.log"
        self.offsets = np.asarray(completion_offsets)
        self._values = np.full(int(self.offsets[-1]), np.nan, dtype=np.float32)
        self._known = np.zeros(len(self.offsets) - 1, dtype=bool)
        self._end = self._read()

    def __getitem__(self, index: int) -> np.ndarray:
        """float32 ``[K]``, the log-probs of prompt ``index`` in nats; KeyError when they were not computed."""
        if not self._known[index]:
            raise KeyError(f"reference log-probs of prompt {index} were not computed")
        return self._values[self.offsets[index] : self.offsets[index + 1]]

    def missing(self, indices: Sequence[int]) -> list[int]:
        """Those of ``indices`` that are not in the cache, sorted, each once."""
        return [int(index) for index in np.unique(np.asarray(indices, dtype=np.int64)) if not self._known[index]]

    def fill(
        self,
        indices: Sequence[int],
        tree_of: Callable[[int], PromptTree],
        score: Callable[[list[PromptTree]], torch.Tensor],
        tokens_per_chunk: int,
        on_chunk: Callable[[int], None] = lambda num_prompts: None,
    ) -> int:
        """Score what is missing and store it; every rank calls it with the same arguments. Returns prompts scored."""
        missing = self.missing(indices)
        if dist.is_initialized():
            dist.barrier()  # every rank has read the file before rank 0 appends to it
        for chunk in _chunks(missing, tree_of, tokens_per_chunk):
            table_BK = score(chunk).cpu().numpy()
            values = np.concatenate([row[: len(tree.completions)] for row, tree in zip(table_BK, chunk, strict=True)])
            rows = np.array([tree.index for tree in chunk], dtype=np.int64)
            self._store(rows, values.astype(np.float32))
            if is_rank_zero():
                self._append(rows, values.astype(np.float32))
            on_chunk(len(chunk))
        return len(missing)

    def _store(self, indices: np.ndarray, values: np.ndarray) -> None:
        start = 0
        for index in indices:
            first, last = self.offsets[index], self.offsets[index + 1]
            self._values[first:last] = values[start : start + last - first]
            self._known[index] = True
            start += last - first

    def _read(self) -> int:
        """Read every whole chunk; returns where the last one ends."""
        if not self.path.exists():
            return 0
        content = self.path.read_bytes()
        position = 0
        while position + _HEADER.size <= len(content):
            magic, num_prompts, num_values, checksum = _HEADER.unpack_from(content, position)
            start = position + _HEADER.size
            stop = start + 8 * num_prompts + 4 * num_values
            payload = content[start:stop]
            if magic != _MAGIC or len(payload) != stop - start or zlib.crc32(payload) != checksum:
                break
            indices = np.frombuffer(payload, dtype=np.int64, count=num_prompts)
            self._store(indices, np.frombuffer(payload, dtype=np.float32, offset=8 * num_prompts))
            position = stop
        return position

    def _append(self, indices: np.ndarray, values: np.ndarray) -> None:
        payload = indices.tobytes() + values.tobytes()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "r+b" if self.path.exists() else "w+b") as file:
            file.seek(self._end)
            file.truncate()  # a torn chunk of an interrupted pass
            file.write(_HEADER.pack(_MAGIC, len(indices), len(values), zlib.crc32(payload)) + payload)
            file.flush()
            os.fsync(file.fileno())
            self._end = file.tell()


def reference_key(weights_hash: str, architecture: ModelArchitecture, precision: str) -> str:
    """The cache's file name: content of the weights, architecture (rotary base, norms) and precision.

    The tokens are named by the prepared dataset's directory.
    """
    shape = hashlib.blake2b(repr(architecture).encode(), digest_size=4).hexdigest()
    return f"{weights_hash[:32]}-{shape}-{precision}"


def _chunks(indices: list[int], tree_of: Callable[[int], PromptTree], tokens: int) -> Iterator[list[PromptTree]]:
    chunk: list[PromptTree] = []
    num_tokens = 0
    for index in indices:
        tree = tree_of(index)
        if chunk and (num_tokens + tree.num_tokens > tokens or len(chunk) == MAX_PROMPTS_PER_CHUNK):
            yield chunk
            chunk, num_tokens = [], 0
        chunk.append(tree)
        num_tokens += tree.num_tokens
    if chunk:
        yield chunk
