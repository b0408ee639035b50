# SPDX-License-Identifier: Apache-2.0
"""Functions compiled into one GPU kernel, instead of one per operator that reads and writes its tensors again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, wraps
from typing import TypeVar

import torch
from torch._C import _len_torch_function_stack
from torch.overrides import _pop_mode_temporarily

from nemo_mcpo.platform.packages import is_installed

Result = TypeVar("Result")


def compiled_on_gpu(function: Callable[..., Result]) -> Callable[..., Result]:
    """Return ``function`` of tensors, compiled by torch if the first is on a GPU; sizes may differ between calls.

    Without Triton, which torch needs for compiling, the function runs uncompiled.
    """

    @cache
    def compiled() -> Callable[..., Result]:
        return torch.compile(function, dynamic=True) if is_installed("triton") else function

    @wraps(function)
    def call(*tensors):
        if not _is_on_gpu(tensors[0]):
            return function(*tensors)
        with unheard():
            return compiled()(*tensors)

    return call


@contextmanager
def unheard() -> Iterator[None]:
    """Suspend torch function modes.

    A mode that records products finds none in compiled code, and torch would compile the code once more for it.
    """
    with ExitStack() as without_modes:
        while _len_torch_function_stack():
            without_modes.enter_context(_pop_mode_temporarily())
        yield


def _is_on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cuda"
