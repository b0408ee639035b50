# SPDX-License-Identifier: Apache-2.0
r"""Markov chains over a prompt's completions: k cheap steps that each see c of them, instead of one that sees all.

A chain starts at the preferred completion. In each step, c fresh columns D join the current one s, and one is picked:

.. math:: s' \sim \mathrm{Categorical}(w_j),\ j \in \{s\} \cup D, \qquad
          D \sim \mathrm{Uniform}(\text{subsets of c of the pool's other members})

Paper: arXiv 2502.04567, Algorithm 1 and section 3.1, where D is c independent draws from the proposal. Our pool is
finite, so D is drawn without replacement and excludes s: independent draws could repeat a column and count its weight
twice. The set {s} ∪ D is then equally likely from each of its members, so w_s P(s -> t) = w_t P(t -> s): the kernel
weights are exactly the stationary distribution, and with c = the whole pool one step is an exact draw. A preferred
completion that is not valid has weight 0: the first step picks from D alone, and the chain never returns to it. Each
negative has its own chain; without replacement, the column that a chain returns leaves the pool of later chains.

>>> log_weights = torch.tensor([[-math.inf, 0.0, 0.0, -1e6]])
>>> generator = torch.Generator().manual_seed(0)
>>> settings = dict(replacement=False, chain_steps=4, chain_candidates=1)
>>> draw_chains(log_weights, torch.tensor([[False, True, True, True]]), 2, generator, **settings)
tensor([[1, 2]])
"""

from __future__ import annotations

import math

import torch

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.sampling.draws import Generators, finite_log_weights, to_gumbel, uniform_noise


def draw_chains(
    log_weights: torch.Tensor,
    valid: torch.Tensor,
    num_negatives: int,
    generator: Generators,
    *,
    replacement: bool,
    chain_steps: int,
    chain_candidates: int,
) -> torch.Tensor:
    """Return the end points of M chains of ``chain_steps`` steps, ``[B, M]``; -1 where the pool is empty."""
    log_weights_BL, pool_BL = finite_log_weights(log_weights), valid.cpu()
    num_rows, num_columns = pool_BL.shape
    uniform_BLD = uniform_noise(generator, num_rows, num_columns, num_negatives * chain_steps * 2)
    uniform_BLMK2 = uniform_BLD.view(num_rows, num_columns, num_negatives, chain_steps, 2)
    columns_BM = torch.full((num_rows, num_negatives), -1)
    for slot in range(num_negatives):
        end_B = _run_chain(log_weights_BL, pool_BL, uniform_BLMK2[:, :, slot], chain_candidates)
        columns_BM[:, slot] = end_B.masked_fill(~pool_BL.any(dim=-1), -1)
        if not replacement:
            pool_BL = pool_BL.scatter(-1, end_B[:, None], False)
    return columns_BM.to(log_weights.device)


def _run_chain(
    log_weights_BL: torch.Tensor, pool_BL: torch.Tensor, uniform_BLK2: torch.Tensor, chain_candidates: int
) -> torch.Tensor:
    """Return the end point of one chain from column 0, ``[B]``; meaningless in rows with an empty pool."""
    columns_L = torch.arange(pool_BL.shape[-1])
    state_B = torch.zeros(pool_BL.shape[0], dtype=torch.long)
    gumbel_BLK = to_gumbel(uniform_BLK2[..., 1])
    for step in range(uniform_BLK2.shape[2]):
        others_BL = pool_BL & (columns_L != state_B[:, None])
        lots_BL = uniform_BLK2[:, :, step, 0].masked_fill(~others_BL, -1.0)
        last_B1 = lots_BL.topk(min(chain_candidates, pool_BL.shape[-1]), dim=-1).values[:, -1:]
        # With fewer than c others, the last lot is -1 and all of them join.
        joined_BL = pool_BL & (~others_BL | (lots_BL >= last_B1))
        keys_BL = (log_weights_BL + gumbel_BLK[..., step]).masked_fill(~joined_BL, -math.inf)
        state_B = keys_BL.argmax(dim=-1)
    return state_B


def check_chain(chain_steps: int, chain_candidates: int | None, num_candidates: int | None = None) -> None:
    """Raise ConfigError for chain settings that are out of range or have no effect.

    Args:
        chain_steps: steps of a chain.
        chain_candidates: fresh columns per step, or None for all.
        num_candidates: the largest number of candidates that any prompt has, if known. Prompts with at most
            ``chain_candidates`` candidates are drawn exactly, so a single batch cannot decide this.
    """
    if chain_steps < 1:
        raise ConfigError(
            "a chain needs at least one step",
            where="model.mcpo.chain_steps",
            got=chain_steps,
            expected="1 or more",
            fix="set it to 1, the paper's choice",
        )
    if chain_candidates is not None and chain_candidates < 1:
        raise ConfigError(
            "a chain without fresh candidates never moves",
            where="model.mcpo.chain_candidates",
            got=chain_candidates,
            expected="1 or more, or null for all",
            fix="set it to null, or to less than the number of candidates per prompt",
        )
    is_exact = chain_candidates is None or (num_candidates is not None and chain_candidates >= num_candidates)
    if chain_steps > 1 and is_exact:
        raise ConfigError(
            "further steps have no effect if each step sees all candidates",
            where="model.mcpo.chain_candidates",
            got=chain_candidates if chain_candidates is not None else "null",
            expected=f"1 to {num_candidates - 1}" if num_candidates else "less than the number of candidates",
            fix=f"set a smaller model.mcpo.chain_candidates, or model.mcpo.chain_steps=1 instead of {chain_steps}",
        )
