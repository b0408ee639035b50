# SPDX-License-Identifier: Apache-2.0
"""The safetensors files of a Hugging Face directory: their names, contents and hash, and slices of their tensors.

Only safetensors files are read. Opening a checkpoint reads and checks every header, so that all ranks find the same
missing or damaged file before any weight is copied.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.huggingface.families import IGNORED_SUFFIXES, tensor_shapes

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
OPTIONAL_FILES = ("generation_config.json",)
"""Files that a model directory may lack."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""The dtypes that weights may be stored in, by their safetensors names."""
HASHED_BYTES = 1 << 26
"""Size of the pieces in which ``hash_weights`` reads a tensor."""
HASH_THREADS = 8


@dataclass(frozen=True, slots=True)
class TensorOnDisk:
    """A tensor of which only slices are read, when they are taken.

    The file is mapped for one read at a time, so that its pages do not accumulate in memory.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def __getitem__(self, index: slice | tuple[slice, ...], /) -> torch.Tensor:
        try:
            with safe_open(self.file, framework="pt", device="cpu") as opened:
                return opened.get_slice(self.name)[index]
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"cannot read tensor {self.name}", where=str(self.file), got=error, fix="download the file again"
            ) from error


def check_replaceable(directory: Path) -> None:
    """Raise CheckpointError for a target that is neither new, empty nor a model."""
    if not directory.exists():
        return
    if directory.is_dir() and ((directory / "config.json").exists() or not any(directory.iterdir())):
        return
    raise CheckpointError(
        "refusing to replace something that is not a model",
        where=str(directory),
        expected="a new path, an empty directory, or a Hugging Face directory",
        fix="choose another directory",
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of a model directory."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            "the file is missing", where=str(path), fix="point at a complete Hugging Face model directory"
        ) from error
    except (OSError, ValueError) as error:
        fix = "download the file again" + (", or delete it" if path.name in OPTIONAL_FILES else "")
        raise CheckpointError("cannot read the file as JSON", where=str(path), got=error, fix=fix) from error
    if not isinstance(contents, dict):
        got = "a list" if isinstance(contents, list) else type(contents).__name__
        raise CheckpointError("not a JSON object", where=str(path), got=got, fix="download the file again")
    return contents


def check_directory(directory: Path) -> None:
    """Raise CheckpointError for a path that is not a directory."""
    if not directory.is_dir():
        raise CheckpointError(
            "not a directory" if directory.exists() else "the model directory does not exist",
            where=str(directory),
            expected="a Hugging Face directory with config.json and *.safetensors",
            fix="check the path; models on the Hub must be downloaded first",
        )


def weight_files(directory: Path) -> list[Path]:
    """Return the weight files, chosen as transformers does: the single file if it exists, else the index's files."""
    check_directory(directory)
    if (directory / SINGLE_FILE).exists():
        return [directory / SINGLE_FILE]
    if (directory / INDEX_FILE).exists():
        return [directory / name for name in sorted(set(_weight_map(directory / INDEX_FILE).values()))]
    pickles = sorted(path.name for pattern in PICKLES for path in directory.glob(pattern))
    if pickles:
        raise CheckpointError(
            "only pickled weights found, which can run arbitrary code and are never read",
            where=str(directory),
            got=", ".join(pickles[:3]),
            expected=f"{SINGLE_FILE} or {INDEX_FILE}",
            fix="save the model with transformers' save_pretrained(..., safe_serialization=True)",
        )
    raise CheckpointError(
        "no weights in the model directory",
        where=str(directory),
        expected=f"{SINGLE_FILE} or {INDEX_FILE}",
        fix="download the model completely",
    )


def _weight_map(index_file: Path) -> dict[str, str]:
    """Return tensor name -> file name; refuse names that lead outside the directory."""
    weight_map = read_json(index_file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("no weight_map", where=str(index_file), fix="download the file again")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                "not a safetensors file of this directory",
                where=str(index_file),
                got=name,
                expected="a plain file name",
            )
    return weight_map


def read_header(file: Path) -> list[TensorOnDisk]:
    """Return the tensors of one file; refuse one that is missing, truncated or not safetensors."""
    if not file.exists():
        raise CheckpointError("a weight file is missing", where=str(file), fix="download the model completely")
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is not a dict
            return [TensorOnDisk(file, name, tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            "the file is truncated, or not a safetensors file",
            where=str(file),
            got=f"{file.stat().st_size} bytes: {error}",
            fix="download the file again",
        ) from error


def open_checkpoint(directory: Path, architecture: ModelArchitecture) -> dict[str, TensorOnDisk]:
    """Return every tensor of ``architecture``, with shapes and dtypes checked; refuse any other tensor."""
    found = {tensor.name: tensor for file in weight_files(directory) for tensor in read_header(file)}
    expected = tensor_shapes(architecture)
    _check_names(directory, found, expected, architecture)
    for name, shape in expected.items():
        if found[name].shape != shape or found[name].dtype not in DTYPES:
            raise CheckpointError(
                f"tensor {name} has the wrong shape or dtype",
                where=str(found[name].file),
                got=f"{found[name].dtype} {list(found[name].shape)}",
                expected=f"{'/'.join(DTYPES)} {list(shape)}",
                fix="use the config.json that belongs to these weights, not quantized",
            )
    return {name: found[name] for name in expected}


def _check_names(
    directory: Path,
    found: dict[str, TensorOnDisk],
    expected: dict[str, tuple[int, ...]],
    architecture: ModelArchitecture,
) -> None:
    missing = [name for name in expected if name not in found]
    if missing:
        raise CheckpointError(
            "tensors are missing",
            where=str(directory),
            got=f"no {first_of(missing)}",
            expected=f"{len(expected)} tensors for {architecture.num_layers} layers",
            fix="use the config.json that belongs to these weights, or download the model completely",
        )
    ignored = IGNORED_SUFFIXES + (("lm_head.weight",) if architecture.tied_embeddings else ())
    unknown = [name for name in found if name not in expected and not name.endswith(ignored)]
    if unknown:
        raise CheckpointError(
            "unexpected tensors for this model family",
            where=str(directory),
            got=first_of(unknown),
            fix="use the config.json that belongs to these weights; merge adapters before training",
        )


def first_of(names: Sequence[str]) -> str:
    """Return the first name, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0] + more


def hash_weights(directory: str | Path) -> str:
    """Return the blake2b hash, 32 hexadecimal digits, of every tensor's name, dtype, shape and bytes.

    It does not depend on the directory's path or on how tensors are split into files.
    """
    tensors = [tensor for file in weight_files(Path(directory)) for tensor in read_header(file)]
    tensors.sort(key=lambda tensor: tensor.name)
    with ThreadPoolExecutor(HASH_THREADS) as threads:
        digests = list(threads.map(_hash_tensor, tensors))
    whole = hashlib.blake2b(digest_size=16)
    for digest in digests:
        whole.update(digest)
    return whole.hexdigest()


def _hash_tensor(tensor: TensorOnDisk) -> bytes:
    digest = hashlib.blake2b(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}\n".encode(), digest_size=32)
    if 0 in tensor.shape or not tensor.shape:
        return digest.digest()
    num_rows = max(1, HASHED_BYTES // (4 * torch.Size(tensor.shape[1:]).numel()))
    for first in range(0, tensor.shape[0], num_rows):
        rows = tensor[first : min(first + num_rows, tensor.shape[0])]
        digest.update(rows.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()
