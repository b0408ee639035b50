# SPDX-License-Identifier: Apache-2.0
"""Functions that become one kernel on a GPU, where every operator would read and write its tensors again."""

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
    """``function`` of tensors, compiled by torch where the first of them is on a GPU; sizes may differ every time.

    Without Triton, which torch compiles with, it runs as it is.
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
    """A tape that listens to products has nothing to hear in compiled code, and would be one more variant of it."""
    with ExitStack() as without_modes:
        while _len_torch_function_stack():
            without_modes.enter_context(_pop_mode_temporarily())
        yield


def _is_on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cuda"
