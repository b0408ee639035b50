# SPDX-License-Identifier: Apache-2.0
"""Reference log-probs: every completion scored once by the initial policy and cached beside the prepared data.

The file is a log of checksummed chunks, each appended and synced under a lock. An interrupted pass continues where it
stopped, an incomplete last chunk is dropped, and chunks that another run appended are kept. Chunks are cut greedily
from the sorted list of missing prompts, so that a continued pass scores the same chunks as an uninterrupted one, and
gets the same bits. Rank 0 reads and writes the file; the other ranks receive its contents.

    chunk = magic | number of prompts | number of log-probs | crc32 | prompt indices, int64 | log-probs, float32
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.platform.distributed import on_rank_zero
from nemo_mcpo.records import PromptTree
from nemo_mcpo.storage.append_log import append_after_whole

_HEADER = struct.Struct("<4sIII")
_MAGIC = b"RLP1"
MAX_PROMPTS_PER_CHUNK = 256


class ReferenceCache:
    """Log-probs of one prepared dataset under one set of weights, in nats.

    Args:
        directory: the prepared dataset's directory.
        key: file name, which identifies weights and numerics (see ``reference_key``).
        completion_offsets: ``[prompts + 1]``; prompt i has the completions from offset i up to offset i + 1.
    """

    def __init__(self, directory: Path, key: str, completion_offsets: np.ndarray) -> None:
        self.path = directory / "reference" / f"{key}.log"
        self.offsets = np.asarray(completion_offsets)
        self.others = on_rank_zero(lambda: [path.stem for path in self.path.parent.glob("*.log") if path != self.path])
        self._values, self._known = on_rank_zero(self._read)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the log-probs of prompt ``index``: float32 ``[K]``, nats; raise KeyError if they are missing."""
        if not self._known[index]:
            raise KeyError(f"reference log-probs of prompt {index} were not computed")
        return self._values[self.offsets[index] : self.offsets[index + 1]]

    def missing(self, indices: Sequence[int]) -> list[int]:
        """Return the ``indices`` that are not in the cache, sorted and without duplicates."""
        return [int(index) for index in np.unique(np.asarray(indices, dtype=np.int64)) if not self._known[index]]

    def fill(
        self,
        indices: Sequence[int],
        tree_of: Callable[[int], PromptTree],
        score: Callable[[list[PromptTree]], torch.Tensor],
        tokens_per_chunk: int,
        on_chunk: Callable[[int], None] = lambda num_prompts: None,
    ) -> int:
        """Score and store missing prompts; return their number. Every rank calls this with the same arguments."""
        missing = self.missing(indices)
        for chunk in _chunks(missing, tree_of, tokens_per_chunk):
            table_BK = score(chunk).cpu().numpy()
            values = np.concatenate([row[: len(tree.completions)] for row, tree in zip(table_BK, chunk, strict=True)])
            rows = np.array([tree.index for tree in chunk], dtype=np.int64)
            if not np.isfinite(values).all():
                raise CheckpointError(
                    "a reference log-prob is not finite",
                    where=f"rows {chunk[0].index} to {chunk[-1].index} of the prepared data",
                    fix="check the initial weights, or set trainer.precision=32",
                )
            self._store(self._values, self._known, rows, values)
            on_rank_zero(partial(self._append, rows, values))
            on_chunk(len(chunk))
        return len(missing)

    def _store(self, values: np.ndarray, known: np.ndarray, indices: np.ndarray, new: np.ndarray) -> None:
        start = 0
        for index in indices:
            first, last = self.offsets[index], self.offsets[index + 1]
            values[first:last] = new[start : start + last - first]
            known[index] = True
            start += last - first

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        """Read the file's complete chunks: log-probs ``[completions]``, and which prompts have them, ``[prompts]``."""
        values = np.full(int(self.offsets[-1]), np.nan, dtype=np.float32)
        known = np.zeros(len(self.offsets) - 1, dtype=bool)
        if self.path.exists():
            for indices, new, _ in _whole_chunks(self.path.read_bytes()):
                self._store(values, known, indices, new)
        return values, known

    def _append(self, indices: np.ndarray, values: np.ndarray) -> None:
        """Append a chunk after the last complete one, including chunks that other runs appended."""
        payload = indices.tobytes() + values.tobytes()
        chunk = _HEADER.pack(_MAGIC, len(indices), len(values), zlib.crc32(payload)) + payload
        append_after_whole(self.path, chunk, lambda log: max((end for _, _, end in _whole_chunks(log)), default=0))


def _whole_chunks(content: bytes) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield prompt indices, log-probs and end offset of every chunk before the first incomplete or damaged one."""
    end = 0
    while end + _HEADER.size <= len(content):
        magic, num_prompts, num_values, checksum = _HEADER.unpack_from(content, end)
        start = end + _HEADER.size
        end = start + 8 * num_prompts + 4 * num_values
        payload = content[start:end]
        if magic != _MAGIC or len(payload) != end - start or zlib.crc32(payload) != checksum:
            return
        indices = np.frombuffer(payload, dtype=np.int64, count=num_prompts)
        yield indices, np.frombuffer(payload, dtype=np.float32, offset=8 * num_prompts), end


def reference_key(weights_hash: str, architecture: ModelArchitecture, numerics: str) -> str:
    """Return the cache's file name: hashes of the weights and the architecture, and the numerics.

    ``numerics`` names the precision and the layers' implementation. The architecture has what the weights do not show,
    such as the rotary base. The tokens need no part in the key: the cache lies in the prepared dataset's directory.
    """
    shape = hashlib.blake2b(repr(architecture).encode(), digest_size=4).hexdigest()
    return f"{weights_hash[:32]}-{shape}-{numerics}"


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
