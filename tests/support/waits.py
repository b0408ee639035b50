# SPDX-License-Identifier: Apache-2.0
"""Counts where the host waits for a GPU: to read values, for copies that are not queued, for unknown sizes."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parents[2]
READS = {"_local_scalar_dense", "equal"}
"""Operators that return a number or a truth value to the host: ``.item()``, ``if tensor:``, ``torch.equal``."""
SIZES = {"nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"}
"""Operators that return a tensor whose size depends on values."""
SYNCHRONIZE = ((torch.cuda, "synchronize"), (torch.cuda.Stream, "synchronize"), (torch.cuda.Event, "synchronize"))


class Waits(TorchDispatchMode):
    """A context that counts waits by their cause and by the line of this project that causes them.

    Copies between devices wait unless they are non-blocking and the host's memory is pinned.

    Attributes:
        places: number of waits by ``(what, "file:line")``.
        queued: number of copies that did not wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[tuple[str, str]] = Counter()
        self.queued = 0
        self._patches = [patch.object(owner, name, self._counted(owner, name)) for owner, name in SYNCHRONIZE]
        self._patches.append(patch.object(torch, "tensor", self._reads_scalars(torch.tensor)))

    def __enter__(self) -> Waits:
        for one in self._patches:
            one.start()
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        for one in self._patches:
            one.stop()

    def by_file(self) -> dict[str, int]:
        """Return the number of waits by file."""
        files: Counter[str] = Counter()
        for (_, place), count in self.places.items():
            files[place.rpartition(":")[0]] += count
        return dict(files)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        on_gpu = any(map(_is_on_gpu, tree_leaves((args, kwargs))))
        result = func(*args, **kwargs)
        if on_gpu and (name in READS or (name in SIZES and kwargs.get("output_size") is None)):
            self._add(name)
        elif name in ("index", "index_put", "index_put_", "_index_put_impl_") and on_gpu and _is_mask(args[1]):
            self._add("index by mask")
        elif name == "lift_fresh" and on_gpu:  # torch.tensor(…, device="cuda") copies where no mode sees it
            self._add("to the GPU")
        elif name in ("copy_", "_to_copy"):
            source, target = (args[1], args[0]) if name == "copy_" else (args[0], result)
            asynchronous = bool(kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
            self._copied(source, target, asynchronous)
        return result

    def _copied(self, source: Tensor, target: Tensor, asynchronous: bool) -> None:
        if source.is_cuda == target.is_cuda or not source.numel():
            return
        host = target if source.is_cuda else source
        if asynchronous and host.is_pinned():
            self.queued += 1
        else:
            self._add("to the host" if source.is_cuda else "to the GPU")

    def _counted(self, owner: object, name: str) -> Callable:
        original = getattr(owner, name)

        def call(*args, **kwargs):
            self._add(name)
            return original(*args, **kwargs)

        return call

    def _reads_scalars(self, tensor: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Count the reads of ``torch.tensor(list of tensors)``, which reads them one by one where no mode sees it."""

        def call(data, *args, **kwargs):
            for _ in range(0 if isinstance(data, Tensor) else sum(map(_is_on_gpu, tree_leaves(data)))):
                self._add("tensor of scalars")
            return tensor(data, *args, **kwargs)

        return call

    def _add(self, what: str) -> None:
        self.places[what, _caller()] += 1


def _is_on_gpu(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_cuda


def _is_mask(indices: object) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.dtype in (torch.bool, torch.uint8) for leaf in tree_leaves(indices))


def _caller() -> str:
    """Return the innermost line of this project, or of megatron-core, which runs the optimizer."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename == __file__:
            continue
        if frame.filename.startswith(f"{ROOT}/"):
            return f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}"
        if "/megatron/core/" in frame.filename:
            return f"megatron/core/{frame.filename.split('/megatron/core/')[-1]}:{frame.lineno}"
    return "elsewhere"
