# SPDX-License-Identifier: Apache-2.0
"""Exports megatron-core model chunks as a Hugging Face directory, which appears complete or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist
from megatron.core.models.gpt import GPTModel

from nemo_mcpo.errors import CheckpointError, NemoMcpoError
from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.huggingface.checkpoint import check_replaceable
from nemo_mcpo.models.huggingface.config import DTYPES, write_config
from nemo_mcpo.models.huggingface.shards import MAX_SHARD_BYTES
from nemo_mcpo.models.huggingface.tokenizer_files import write_tokenizer_files
from nemo_mcpo.models.huggingface.weights import export_weights, is_writer, raise_on_every_rank
from nemo_mcpo.storage.atomic import move_into_place, partial_path, start_partial


def export_model(
    directory: str | Path,
    chunks: Sequence[GPTModel],
    architecture: ModelArchitecture,
    source_dir: str | Path | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a directory that transformers and inference servers can load. Every rank calls this.

    Args:
        directory: the result; an existing model is replaced once the new one is complete.
        source_dir: the initial model, whose config.json, tokenizer and chat template are kept.
        dtype: dtype of the written weights; by default the architecture's.
        max_shard_bytes: largest size of a weight file, in bytes.
    """
    directory = Path(directory).resolve()
    source_dir = Path(source_dir).resolve() if source_dir is not None else None
    dtype = dtype or architecture.dtype
    problem: Exception | None = None
    if is_writer():
        try:
            _check_target(directory, source_dir, dtype)
            # Write the small files first, so that their errors surface before the long part.
            partial = start_partial(directory)
            write_config(partial, architecture, source_dir, dtype)
            if source_dir is not None:
                write_tokenizer_files(partial, source_dir, architecture.vocab_size)
        except (OSError, NemoMcpoError) as error:
            problem = error
    raise_on_every_rank(problem, directory)
    export_weights(partial_path(directory), chunks, architecture, dtype, max_shard_bytes)
    if is_writer():
        move_into_place(directory)
    dist.barrier()


def _check_target(directory: Path, source_dir: Path | None, dtype: str) -> None:
    if dtype not in DTYPES:
        raise CheckpointError("unknown dtype", where=str(directory), got=dtype, expected=", ".join(DTYPES))
    if directory == source_dir:
        raise CheckpointError(
            "the export would replace the initial model",
            where=str(directory),
            fix="choose another directory",
        )
    check_replaceable(directory)
