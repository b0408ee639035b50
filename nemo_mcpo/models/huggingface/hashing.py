# SPDX-License-Identifier: Apache-2.0
"""A content hash of a model's weights: the same wherever they lie and however they are split into files."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from nemo_mcpo.models.huggingface.checkpoint import TensorOnDisk, read_header, weight_files

ROWS_BYTES = 1 << 26
NUM_THREADS = 8


def hash_weights(directory: str | Path) -> str:
    """blake2b, as 32 hexadecimal digits, over every tensor's name, dtype, shape and bytes."""
    tensors = [tensor for file in weight_files(Path(directory)) for tensor in read_header(file)]
    tensors.sort(key=lambda tensor: tensor.name)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        digests = list(threads.map(_hash_tensor, tensors))
    whole = hashlib.blake2b(digest_size=16)
    for digest in digests:
        whole.update(digest)
    return whole.hexdigest()


def _hash_tensor(tensor: TensorOnDisk) -> bytes:
    digest = hashlib.blake2b(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}\n".encode(), digest_size=32)
    if 0 in tensor.shape or not tensor.shape:
        return digest.digest()
    num_rows = max(1, ROWS_BYTES // (4 * torch.Size(tensor.shape[1:]).numel()))
    for first in range(0, tensor.shape[0], num_rows):
        rows = tensor[first : min(first + num_rows, tensor.shape[0])]
        digest.update(rows.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()
