# SPDX-License-Identifier: Apache-2.0
"""Lets megatron-core run without a GPU: patches the few places where it takes CUDA for granted.

``install_cpu_adapter()`` does nothing if CUDA is available. It is called once, by ``platform.distributed``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps

import torch

_FACTORIES = (
    "zeros",
    "ones",
    "empty",
    "full",
    "tensor",
    "arange",
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
)
_CUDA = "torch.cuda."
_installed = False


def install_cpu_adapter() -> None:
    """Patch torch and megatron-core so that ``cuda`` means the CPU; a no-op with CUDA, and when called again."""
    global _installed
    if _installed or torch.cuda.is_available():
        return
    from megatron.core.tensor_parallel import random as megatron_random

    _installed = True
    cpu = torch.device("cpu")
    with cpu:
        # The first time that a tensor is made under "with torch.device(…)", torch caches the functions that make
        # tensors. It has to cache its own, which the wrappers below call; otherwise, "with torch.device("meta")" would
        # have no effect.
        torch.empty(0)
    _replace(
        torch.cuda,
        current_device=lambda: cpu,
        synchronize=lambda device=None: None,
        set_device=lambda device: None,
        # Megatron's RNG tracker forks the CUDA generator; here it forks the CPU's.
        manual_seed=torch.manual_seed,
        get_rng_state=lambda device=None: torch.get_rng_state(),
        set_rng_state=lambda state, device=None: torch.set_rng_state(state),
    )
    _replace(
        megatron_random,
        _get_cuda_rng_state=lambda device=None, clone=False, graph_safe=False: torch.get_rng_state(),
        _set_cuda_rng_state=lambda state, device=-1, graph_safe=False: torch.set_rng_state(state),
    )
    _replace(torch.Tensor, cuda=lambda self, *args, **kwargs: self, type=_report_cuda_type(torch.Tensor.type))
    _replace(torch, **{name: _cuda_literal_means_cpu(getattr(torch, name)) for name in _FACTORIES})
    # The tracker warns if the state of the CPU generator changes in a CUDA context, which is intended here.
    logging.getLogger(megatron_random.__name__).addFilter(
        lambda record: "CPU RNG state changed within GPU RNG context" not in record.msg
    )


def _replace(owner: object, **replacements: Callable) -> None:
    for name, replacement in replacements.items():
        setattr(owner, name, replacement)


def _cuda_literal_means_cpu(factory: Callable) -> Callable:
    @wraps(factory)
    def wrapped(*args, **kwargs):
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = "cpu"
        return factory(*args, **kwargs)

    return wrapped


def _report_cuda_type(original: Callable) -> Callable:
    """Report CUDA types, since Megatron's optimizers compare ``tensor.type()`` with ``torch.cuda.FloatTensor`` etc."""

    @wraps(original)
    def tensor_type(self, dtype=None, non_blocking=False, **kwargs):
        if dtype is not None or kwargs:
            return original(self, _of_the_cpu(dtype), non_blocking, **kwargs)
        name = original(self)
        # Function modes and tensor subclasses call the method by name, so the name may be translated already.
        already = name.startswith(_CUDA) or self.device.type != "cpu"
        return name if already else name.replace("torch.", _CUDA, 1)

    return tensor_type


def _of_the_cpu(dtype: object) -> object:
    """Return the CPU's counterpart of a torch.dtype, a tensor type or its name, as in ``a.type(b.type())``."""
    name = f"{dtype.__module__}.{dtype.__name__}" if isinstance(dtype, type) else dtype
    return name.replace(_CUDA, "torch.", 1) if isinstance(name, str) and name.startswith(_CUDA) else dtype
