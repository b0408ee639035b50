# SPDX-License-Identifier: Apache-2.0
"""Functions that become one kernel on a GPU, where every operator would read and write its tensors again."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import TypeVar

import torch

Result = TypeVar("Result")


def compiled_on_gpu(function: Callable[..., Result]) -> Callable[..., Result]:
    """``function`` of tensors, compiled by torch where the first of them is on a GPU; sizes may differ every time."""

    @cache
    def compiled() -> Callable[..., Result]:
        return torch.compile(function, dynamic=True)

    @wraps(function)
    def call(*tensors):
        if not _is_on_gpu(tensors[0]):
            return function(*tensors)
        with torch._C.DisableTorchFunction():  # a tape that listens to products has nothing to hear in here
            return compiled()(*tensors)

    return call


def _is_on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cuda"
