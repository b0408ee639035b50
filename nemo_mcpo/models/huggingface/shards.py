# SPDX-License-Identifier: Apache-2.0
"""Writes safetensors files of bounded size, streaming one tensor at a time.

Shapes are known in advance, so each file's header is written first, and memory holds only one tensor. The format is
8 bytes of header length (little-endian), a JSON header with the tensors' dtypes, shapes and offsets, then their bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.checkpoint import DTYPES, INDEX_FILE, SINGLE_FILE
from nemo_mcpo.storage.atomic import sync_file

MAX_SHARD_BYTES = 5_000_000_000
Shapes = dict[str, tuple[int, ...]]


def plan_shards(shapes: Shapes, dtype: torch.dtype, max_bytes: int) -> dict[str, Shapes]:
    """Return file name -> its tensors, in order; a file exceeds ``max_bytes`` only if a single tensor does."""
    shards: list[Shapes] = []
    room = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        if size > room:
            shards.append({})
            room = max_bytes
        shards[-1][name] = shape
        room -= size
    if len(shards) == 1:
        return {SINGLE_FILE: shards[0]}
    return {f"model-{n:05d}-of-{len(shards):05d}.safetensors": shard for n, shard in enumerate(shards, start=1)}


def write_shards(
    directory: Path,
    shards: dict[str, Shapes],
    dtype: torch.dtype,
    tensors: Iterable[tuple[str, torch.Tensor | None]],
) -> None:
    """Write the files and, if there are several, their index; ``tensors`` arrive in the planned order."""
    stream = iter(tensors)
    for file_name, shapes in shards.items():
        _write_file(directory / file_name, shapes, dtype, stream)
    if len(shards) > 1:
        total = sum(math.prod(shape) for shapes in shards.values() for shape in shapes.values()) * dtype.itemsize
        weight_map = {name: file_name for file_name, shapes in shards.items() for name in shapes}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(
    path: Path, shapes: Shapes, dtype: torch.dtype, tensors: Iterator[tuple[str, torch.Tensor | None]]
) -> None:
    with path.open("wb") as file:
        file.write(_header(shapes, dtype))
        for expected_name, shape in shapes.items():
            name, tensor = next(tensors)
            if tensor is None or name != expected_name or tuple(tensor.shape) != shape or tensor.dtype != dtype:
                raise CheckpointError(
                    "the model and its architecture disagree",
                    where=str(path),
                    got=name if tensor is None else f"{name} {tensor.dtype} {list(tensor.shape)}",
                    expected=f"{expected_name} {dtype} {list(shape)}",
                )
            file.write(tensor.contiguous().cpu().flatten().view(torch.uint8).numpy().data)
        sync_file(file)


def _header(shapes: Shapes, dtype: torch.dtype) -> bytes:
    dtype_name = next(name for name, known in DTYPES.items() if known == dtype)
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": dtype_name, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header
