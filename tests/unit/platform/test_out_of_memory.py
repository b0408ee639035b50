# SPDX-License-Identifier: Apache-2.0
"""Running out of memory names the part and its remedies: with the CPU's allocator, and with messages of a GPU's."""

from __future__ import annotations

import pytest
import torch

from nemo_mcpo.errors import MemoryExhaustedError
from nemo_mcpo.platform.out_of_memory import REMEDIES, memory_of

ON_A_GPU = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 3 has a total capacity of 79.10 GiB of which 1.21 GiB is "
    "free. Of the allocated memory 71.30 GiB is allocated by PyTorch, and 5.90 GiB is reserved by PyTorch but "
    "unallocated. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True."
)


def test_the_facts_of_a_gpu_s_message_are_kept():
    with pytest.raises(MemoryExhaustedError) as caught, memory_of("training"):
        raise torch.OutOfMemoryError(ON_A_GPU)
    assert (caught.value.where, caught.value.got) == ("training", ON_A_GPU.partition(". If")[0])
    assert caught.value.fix == f"{'; or '.join(REMEDIES['training'])}. scripts/plan.py shows what fits"
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_a_cpu_runs_out_of_memory():
    @memory_of("scoring")
    def score() -> torch.Tensor:
        return torch.empty(1 << 60, dtype=torch.uint8)

    with pytest.raises(MemoryExhaustedError) as caught:
        score()
    assert caught.value.where == "scoring" and " 1152921504606846976 bytes" in caught.value.got
    assert caught.value.fix.startswith("lower ")


@pytest.mark.parametrize("message", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling …"])
def test_cuda_and_its_libraries(message):
    with pytest.raises(MemoryExhaustedError, match="out of memory"), memory_of("the update"):
        raise RuntimeError(message)


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), memory_of("training"):
        raise RuntimeError("shapes differ")


def test_the_innermost_part_is_named():
    with pytest.raises(MemoryExhaustedError) as caught, memory_of("training"), memory_of("scoring"):
        raise torch.OutOfMemoryError(ON_A_GPU)
    assert caught.value.where == "scoring"


@pytest.mark.parametrize("part", REMEDIES)
def test_three_remedies(part):
    assert len(set(REMEDIES[part])) == 3
