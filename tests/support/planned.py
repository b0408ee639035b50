# SPDX-License-Identifier: Apache-2.0
"""Small models whose real sizes are compared with the estimates of ``nemo_mcpo.planning``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from megatron.core import parallel_state
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.models.gpt import ParallelLayout
from nemo_mcpo.planning.data_shape import DataShape
from nemo_mcpo.planning.workload import Layout
from nemo_mcpo.platform.distributed import initialize_parallel, shut_down
from nemo_mcpo.records import PreferenceBatch, PromptTree

BASE: dict = {
    "num_layers": 4, "hidden_size": 256, "ffn_hidden_size": 576, "num_attention_heads": 8, "num_query_groups": 4,
    "head_dim": 32, "vocab_size": 1000, "max_positions": 4096, "norm_epsilon": 1e-5, "rope_theta": 1e4,
}  # fmt: skip
ARCHITECTURES = {
    "llama": ModelArchitecture("llama", **BASE),
    "tied": ModelArchitecture("llama", tied_embeddings=True, **BASE),
    "qwen2": ModelArchitecture("qwen2", qkv_bias=True, **BASE),
    "qwen3": ModelArchitecture("qwen3", qk_norm=True, **BASE),
}
DATA = DataShape(prompts=64, prompt_length=40, completion_length=30, candidates=3, scored=3)


LAYOUTS = {
    "dp2": ParallelLayout(),
    "tp2": ParallelLayout(tensor=2),
    "tp2-sp": ParallelLayout(tensor=2, sequence_parallel=True),
    "pp2": ParallelLayout(pipeline=2),
    "interleaved": ParallelLayout(pipeline=2, virtual_pipeline=2),
}
MEASURED = {
    "dp2": ("llama-bf16", "tied-32", "llama-bf16-compact"),
    "tp2": ("qwen2-32",),
    "tp2-sp": ("llama-bf16", "qwen3-32"),
    "pp2": ("llama-bf16", "tied-32"),
    "interleaved": ("tied-bf16",),
}
"""Layout -> models and precisions that train in it; ``compact``: with Adam's moments in bfloat16."""
NUM_TREES = 16
ROW_TOKENS = 200
"""Two trees."""


def each_layout(layouts: Mapping[str, ParallelLayout]) -> Iterator[tuple[str, ParallelLayout]]:
    """In a process of torchrun, yield names and layouts, each with its process groups set up."""
    torch.set_num_threads(1)
    for name, layout in layouts.items():
        initialize_parallel(
            tensor_parallel=layout.tensor,
            pipeline_parallel=layout.pipeline,
            virtual_pipeline_parallel=layout.virtual_pipeline,
            seed=1,
        )
        yield name, layout
        parallel_state.destroy_model_parallel()
    shut_down()


def preferences() -> PreferenceBatch:
    """Return a drawn batch of ``NUM_TREES`` prompts per replica."""
    batch = trees(NUM_TREES)
    table = torch.zeros(NUM_TREES, 2)
    lengths = torch.full_like(table, DATA.completion_length)
    return PreferenceBatch(
        tuple(batch),
        ((0, 1),) * NUM_TREES,
        table,
        lengths,
        torch.ones_like(table, dtype=torch.bool),
        table,
        torch.zeros_like(table, dtype=torch.long),
    )


def layout_of(layout: ParallelLayout, *, data: int = 1) -> Layout:
    """Return the plan's form of a layout; it trains two completions per prompt and reuses no scoring."""
    return Layout(
        tensor=layout.tensor,
        pipeline=layout.pipeline,
        virtual=layout.virtual_pipeline or 1,
        data=data,
        sequence_parallel=layout.sequence_parallel,
        recompute=layout.recompute,
        micro_batch_tokens=ROW_TOKENS,
        scoring_tokens=ROW_TOKENS,
        reuse=None,
        scoring=True,
        itemsize=layout.dtype.itemsize,
        moment_itemsize=4,
        offload=False,
        fp8=False,
        global_batch_size=NUM_TREES * data,
        num_negatives=1,
    )


def trees(count: int) -> list[PromptTree]:
    """Return pruned trees with the lengths in ``DATA``."""
    prompt, completion = np.arange(round(DATA.prompt_length)), np.arange(round(DATA.completion_length))
    return [PromptTree(index, index, prompt, (completion, completion)) for index in range(count)]


def fill(parameters: Iterable[Tensor]) -> None:
    """Set weights with which nothing overflows."""
    for parameter in parameters:
        parameter.data.normal_(std=0.02) if parameter.dim() > 1 else parameter.data.fill_(1.0)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the distinct storages of some tensors."""
    return sum({storage.data_ptr(): storage.nbytes() for storage in (t.untyped_storage() for t in tensors)}.values())


class _Kept:
    """A saved tensor that counts as long as autograd keeps it."""

    def __init__(self, live: LiveBytes, tensor: Tensor) -> None:
        self.live, self.tensor = live, tensor
        self.storage = tensor.untyped_storage()
        live.add(self.storage.data_ptr(), self.storage.nbytes(), 1)

    def __del__(self) -> None:
        self.live.add(self.storage.data_ptr(), self.storage.nbytes(), -1)


class LiveBytes:
    """Counts the bytes that autograd keeps for the backward pass, current and peak; weights do not count."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self.weights = {weight.untyped_storage().data_ptr() for weight in weights}
        self.counts: dict[int, int] = {}
        self.now = self.peak = 0

    def add(self, address: int, size: int, change: int) -> None:
        """Count a saved tensor that is added to, or removed from, a storage."""
        if address in self.weights:
            return
        before = self.counts.get(address, 0)
        self.counts[address] = before + change
        self.now += size * ((before + change > 0) - (before > 0))
        self.peak = max(self.peak, self.now)

    def during(self, call: Callable[[], object]) -> object:
        """Return the result of a call whose saved tensors count."""
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Kept(self, tensor), lambda kept: kept.tensor):
            return call()


class Allocations(TorchDispatchMode):
    """Counts the bytes of all tensors created in its context, current and peak; ``known`` tensors do not count."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.live: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage.data_ptr() not in self.known and storage._cdata not in self.live:
            self.live[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        self.now -= self.live.pop(key)
