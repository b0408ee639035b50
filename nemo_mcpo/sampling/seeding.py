# SPDX-License-Identifier: Apache-2.0
r"""Seeds that make a draw's random numbers depend only on the run, the epoch, and the prompt.

.. math:: \mathrm{seed} = \mathrm{blake2b}(\text{run seed}, \text{epoch}, \text{prompt id}) \bmod 2^{63}

Every prompt has its own generator, so neither the number of processes nor the packing of prompts changes a draw. The
paper (arXiv 2502.04567, Algorithm 1) does not specify this.

>>> draw_seed(run_seed=1234, epoch=0, prompt_id=42)
6938466454506046716
>>> from nemo_mcpo.sampling.mc_kernel import draw_kernel
>>> log_weights, valid = torch.zeros(2, 6), torch.ones(2, 6, dtype=torch.bool)
>>> draw_for_prompts(draw_kernel, log_weights, valid, 2, run_seed=1234, epochs=[0, 0], prompt_ids=[42, 43])
tensor([[2, 1],
        [3, 2]])
>>> draw_for_prompts(draw_kernel, log_weights[:1, :5], valid[:1, :5], 2, run_seed=1234, epochs=[0], prompt_ids=[43])
tensor([[3, 2]])
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch


def draw_seed(run_seed: int, epoch: int, prompt_id: int) -> int:
    """Return the 63-bit seed of a draw, the same on every machine, process, and version of Python."""
    return seed_from(f"{int(run_seed)},{int(epoch)},{int(prompt_id)}")


def seed_from(text: str) -> int:
    """Return a 63-bit hash of a text, the same on every machine, process, and version of Python."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % 2**63


def draw_generator(run_seed: int, epoch: int, prompt_id: int) -> torch.Generator:
    """Return the CPU generator of one prompt in one epoch.

    torch's CPU generator keeps only the low 32 bits of a seed, so two of 100,000 prompts may share their noise. This
    is harmless: each draw is still exact, and nothing combines the noise of two prompts.
    """
    return torch.Generator().manual_seed(draw_seed(run_seed, epoch, prompt_id))


def draw_subset(size: int, pool: int, *, run_seed: int, epoch: int, prompt_id: int) -> list[int]:
    """Return a uniform subset of ``range(pool)``, ascending; its random numbers are not those of the draw.

    >>> draw_subset(2, 5, run_seed=1234, epoch=0, prompt_id=42), draw_subset(6, 5, run_seed=1, epoch=0, prompt_id=42)
    ([0, 2], [0, 1, 2, 3, 4])
    """
    if size >= pool:
        return list(range(pool))
    seed = seed_from(f"subset,{int(run_seed)},{int(epoch)},{int(prompt_id)}")
    return sorted(torch.randperm(pool, generator=torch.Generator().manual_seed(seed))[:size].tolist())


def draw_for_prompts(
    sampler: Callable[..., torch.Tensor],
    log_weights: torch.Tensor,
    valid: torch.Tensor,
    num_negatives: int,
    *,
    run_seed: int,
    epochs: Sequence[int],
    prompt_ids: Sequence[int],
    **params: Any,
) -> torch.Tensor:
    """Draw columns ``[B, M]``, each row with its own generator: other rows and padding on the right change nothing.

    Args:
        sampler: an entry of ``SAMPLERS``, or the result of ``bind_sampler``.
        log_weights, valid, num_negatives, params: passed to the sampler.
        epochs, prompt_ids: those of each row; a batch may span two epochs, and each epoch draws anew.
    """
    generators = [draw_generator(run_seed, *row) for row in zip(epochs, prompt_ids, strict=True)]
    return sampler(log_weights, valid, num_negatives, generators, **params)
