# SPDX-License-Identifier: Apache-2.0
"""Out of memory, on a CPU's allocator for real and with the messages of a GPU's: the part and its remedies."""

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


def test_a_gpu_says_what_was_asked_for_and_what_there_is():
    with pytest.raises(MemoryExhaustedError) as caught, memory_of("training"):
        raise torch.OutOfMemoryError(ON_A_GPU)
    assert str(caught.value) == (
        f"training: out of memory (got {ON_A_GPU.partition('. If')[0]}). Fix: lower model.micro_batch_tokens; or set "
        "model.activations_checkpoint_granularity=full; or raise model.tensor_model_parallel_size, with "
        "model.sequence_parallel=true. scripts/plan.py shows what fits."
    )
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_a_cpu_that_is_out_of_memory():
    @memory_of("scoring")
    def score() -> torch.Tensor:
        return torch.empty(1 << 60, dtype=torch.uint8)

    with pytest.raises(MemoryExhaustedError, match=r"^scoring: out of memory .* 1152921504606846976 bytes.*lower"):
        score()


@pytest.mark.parametrize("message", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling …"])
def test_cuda_and_its_libraries(message):
    with pytest.raises(MemoryExhaustedError, match="out of memory"), memory_of("the update"):
        raise RuntimeError(message)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), memory_of("training"):
        raise RuntimeError("shapes differ")


def test_the_innermost_part_is_named():
    with pytest.raises(MemoryExhaustedError, match=r"^scoring: "), memory_of("training"), memory_of("scoring"):
        raise torch.OutOfMemoryError(ON_A_GPU)


@pytest.mark.parametrize("part", REMEDIES)
def test_three_remedies(part):
    assert len(set(REMEDIES[part])) == 3
