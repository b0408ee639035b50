# SPDX-License-Identifier: Apache-2.0
"""The source of the initial policy: a Hugging Face directory, a ``.nemo`` file, or an earlier run.

Opening it reads only small files, so that the configuration can be checked against the architecture before a model is
built. ``load_pretrained`` reads the weights.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.checkpoint_files import CHECKPOINT_MARK, newest_checkpoint
from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.storage.atomic import move_into_place, partial_path, start_partial
from nemo_mcpo.storage.locks import locked

NEMO_FOLDER = "huggingface"


@dataclass(frozen=True, slots=True)
class Pretrained:
    """An initial policy.

    Attributes:
        files: directory with config.json, tokenizer and chat template.
        weights: the same directory, or a distributed checkpoint.
        is_distributed: whether ``weights`` is a distributed checkpoint.
    """

    files: Path
    weights: Path
    is_distributed: bool
    architecture: ModelArchitecture


def open_pretrained(path: str, cache_dir: str) -> Pretrained:
    """Find out what kind of model ``path`` is; a ``.nemo`` file is unpacked under ``cache_dir`` once.

    Raises:
        CheckpointError: ``path`` does not exist or is none of the three kinds.
    """
    root = Path(path).expanduser().resolve()
    if root.is_file() and root.suffix == ".nemo":
        root = _unpack(root, Path(cache_dir).expanduser())
    root = newest_checkpoint(root) or root
    if (root / CHECKPOINT_MARK).exists():
        files = root / NEMO_FOLDER
        return Pretrained(files, root, True, read_architecture(files))
    if not root.is_dir():
        raise CheckpointError(
            "no checkpoint found",
            where="pretrained_checkpoint.restore_from_path",
            got=path,
            expected="a Hugging Face directory, a .nemo file, or the log directory or a checkpoint of an earlier run",
            fix="check the path",
        )
    return Pretrained(root, root, False, read_architecture(root))


def hash_pretrained(pretrained: Pretrained) -> str:
    """Return a hexadecimal content hash of the weights."""
    if not pretrained.is_distributed:
        from nemo_mcpo.models.huggingface.checkpoint import hash_weights

        return hash_weights(pretrained.weights)
    digest = hashlib.blake2b(digest_size=32)
    for file in sorted(pretrained.weights.glob("*.distcp")):
        digest.update(file.name.encode())
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "blake2b").digest())
    return digest.hexdigest()


def load_pretrained(pretrained: Pretrained, model) -> None:
    """Load the weights into a ``MegatronGPTMCPOModel`` without an optimizer. Every rank calls this."""
    if pretrained.is_distributed:
        from nemo_mcpo.models.sharded_state import load_sharded_state

        load_sharded_state(model, pretrained.weights)
    else:
        from nemo_mcpo.models.huggingface.weights import load_weights

        load_weights(pretrained.weights, model.chunks, model.architecture)


def _unpack(archive: Path, cache_dir: Path) -> Path:
    """Return the Hugging Face folder of a ``.nemo`` file, unpacked under a hash of the file's path, size and time."""
    facts = archive.stat()
    name = hashlib.blake2b(f"{archive}{facts.st_size}{facts.st_mtime_ns}".encode(), digest_size=16).hexdigest()
    target = cache_dir / "nemo" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_suffix(".lock")):  # ranks come here before process groups exist
        if not target.exists():
            _extract(archive, target)
    folder = target / NEMO_FOLDER
    if not folder.is_dir():
        raise CheckpointError(
            "the .nemo file was not written by nemo_mcpo",
            where=str(archive),
            expected=f"a folder {NEMO_FOLDER}/ with safetensors files",
            fix="convert the model to a Hugging Face directory with the tool that made the file",
        )
    return folder


def _extract(archive: Path, target: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            _extract_files(tar, start_partial(target))
        move_into_place(target)
    except (tarfile.TarError, OSError) as problem:
        shutil.rmtree(partial_path(target), ignore_errors=True)
        raise CheckpointError(
            "cannot unpack the .nemo file",
            where=str(archive),
            got=problem,
            fix="copy the file again, or free disk space",
        ) from None


def _extract_files(tar: tarfile.TarFile, directory: Path) -> None:
    """Extract regular files, none of them outside ``directory``; Python before 3.11.4 has no ``filter="data"``."""
    root = directory.resolve()
    for member in tar:
        path = (root / member.name).resolve()
        content = tar.extractfile(member) if member.isfile() else None
        if not path.is_relative_to(root) or (content is None and not member.isdir()):
            raise tarfile.ReadError(f"{member.name} leads outside the archive, or is a link or a device")
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with content, open(path, "wb") as file:
                shutil.copyfileobj(content, file)
