# SPDX-License-Identifier: Apache-2.0
"""The draw: from scored trees to a training batch, via rewards, kernel weights, drawn columns and pruned trees.

r(x, y) = log π_θ(y|x) − log π_ref(y|x),    w_i ∝ exp(β r(x, y_i)),    y_1 … y_M ~ w    (arXiv 2502.04567, Alg. 1)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nemo_mcpo.config import Model
from nemo_mcpo.errors import NemoMcpoError
from nemo_mcpo.models.reference_cache import ReferenceCache
from nemo_mcpo.objectives import run_needs
from nemo_mcpo.records import PreferenceBatch, PromptTree
from nemo_mcpo.sampling import (
    bind_sampler,
    draw_for_prompts,
    draw_subset,
    effective_sample_size,
    entropy,
    kernel_log_weights,
)
from nemo_mcpo.variant import Need

_NAMED = 8
"""Maximum number of prompts that an error names."""


class NotFiniteError(NemoMcpoError):
    """A loss, a reward or a gradient is NaN or infinite."""


class Trees(Protocol):
    """Trees by index: a prepared dataset, or what an online run makes of several."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> PromptTree: ...

    def source(self, index: int) -> str:
        """Where the tree at ``index`` (``PromptTree.index``) came from."""


@dataclass(frozen=True, slots=True)
class ReferencedTrees:
    """Trees and their reference log-probs, which are 0 without a cache (for objectives that read none)."""

    dataset: Trees
    reference: ReferenceCache | None

    def ref_logps_BK(self, trees: Sequence[PromptTree]) -> Tensor:
        """Reference log-probs, float32 ``[B, K]``, in nats; 0 in padding."""
        if self.reference is None:
            return padded_table([[0.0] * len(tree.completions) for tree in trees])
        rows = [self.reference[tree.index] for tree in trees]
        kept = [row if tree.ranks is None else row[list(tree.ranks)] for row, tree in zip(rows, trees, strict=True)]
        return padded_table(kept)

    def named(self, trees: Sequence[PromptTree], rows: Iterable[int] | None = None) -> list[dict[str, object]]:
        """Id and source of each prompt, or of the given rows."""
        chosen = trees if rows is None else [trees[row] for row in rows]
        return [{"prompt_id": tree.prompt_id, "source": self.dataset.source(tree.index)} for tree in chosen]

    def check_finite(self, values_B: Tensor, trees: Sequence[PromptTree], what: str) -> None:
        """Raise NotFiniteError, naming the prompts, if any value is NaN or infinite."""
        bad = (~torch.isfinite(values_B)).nonzero()[:, 0].tolist()
        if bad:
            named = [f"{prompt['prompt_id']} ({prompt['source']})" for prompt in self.named(trees, bad[:_NAMED])]
            raise NotFiniteError(
                f"{what} is not finite",
                where=f"{len(bad)} of {len(trees)} prompts: {', '.join(named)}{', …' if len(bad) > _NAMED else ''}",
                got=values_B[bad[0]].item(),
                fix="lower model.optim.lr, or look at these prompts; the last checkpoint is unharmed",
            )


@dataclass(frozen=True, slots=True)
class NegativeSampling:
    """The kernel and sampler of one run.

    Attributes:
        draw: a sampler from ``nemo_mcpo.sampling.SAMPLERS`` with its parameters bound.
        reads_weights: False if the draw does not depend on rewards.
        scored_candidates: c, the candidates of a prompt that a visit scores; None for all.
        first_column: 0 if the preferred completion may be drawn, else 1.
    """

    draw: Callable[..., Tensor]
    num_negatives: int
    scored_candidates: int | None
    beta: float
    first_column: int
    seed: int
    reads_weights: bool

    @classmethod
    def from_config(cls, model: Model) -> NegativeSampling:
        """Bind the configured sampler; ConfigError for a parameter that it does not have."""
        mcpo = model.mcpo
        return cls(
            draw=bind_sampler(mcpo.sampler.name, mcpo.sampler.parameters, mcpo.sampler_keys),
            num_negatives=mcpo.num_negatives,
            scored_candidates=mcpo.scored_candidates,
            beta=mcpo.beta,
            first_column=0 if mcpo.include_preferred else 1,
            seed=model.seed,
            reads_weights=Need.SCORING in run_needs(mcpo),
        )

    def propose(self, tree: PromptTree, epoch: int) -> PromptTree:
        """Return the tree with the candidates that this visit scores: a uniform subset, as Algorithm 1 samples.

        Every visit draws anew. The preferred completion stays, and does not count.
        """
        pool = len(tree.completions) - 1
        if self.scored_candidates is None or self.scored_candidates >= pool:
            return tree
        chosen = draw_subset(self.scored_candidates, pool, run_seed=self.seed, epoch=epoch, prompt_id=tree.prompt_id)
        return tree.keep([0, *(1 + candidate for candidate in chosen)])


@dataclass(frozen=True, slots=True)
class Drawn:
    """Prompts with their negatives.

    Attributes:
        batch: y0 and the drawn negatives of each prompt.
        columns_bM: the drawn columns, -1 where a prompt has too few.
        rewards_bK: in nats; 0 in columns that were not scored.
        log_weights_bK: normalized log-weights of the kernel over each tree's candidates, -inf elsewhere.
        kernel: the kernel's metrics, each ``[b]``; NaN if nothing was scored, since the kernel is then unknown.
    """

    batch: PreferenceBatch
    columns_bM: Tensor
    rewards_bK: Tensor
    log_weights_bK: Tensor
    kernel: dict[str, Tensor]


def draw(
    sampling: NegativeSampling,
    trees: Sequence[PromptTree],
    epochs: Sequence[int],
    ref_logps_bK: Tensor,
    logps_bK: Tensor | None,
) -> Drawn:
    """Keep y0 and M drawn negatives of every prompt, each prompt with its own generator.

    Args:
        epochs: epoch of each prompt; with the prompt's id and the seed it determines the draw.
        ref_logps_bK: reference log-probs, in nats.
        logps_bK: the policy's log-probs; columns before ``first_column`` are not read. None if nothing was scored.
    """
    rewards_bK = torch.zeros_like(ref_logps_bK) if logps_bK is None else logps_bK.cpu() - ref_logps_bK
    rewards_bK[:, : sampling.first_column] = 0.0
    valid_bK = valid_columns(trees, sampling.first_column)
    log_weights_bK = kernel_log_weights(rewards_bK, sampling.beta, valid_bK)
    columns_bM = draw_for_prompts(
        sampling.draw,
        log_weights_bK,
        valid_bK,
        sampling.num_negatives,
        run_seed=sampling.seed,
        epochs=epochs,
        prompt_ids=[tree.prompt_id for tree in trees],
    )
    kernel = kernel_metrics(log_weights_bK)
    if logps_bK is None:
        kernel = {name: torch.full_like(values_b, math.nan) for name, values_b in kernel.items()}
    return Drawn(prune(trees, columns_bM, ref_logps_bK), columns_bM, rewards_bK, log_weights_bK, kernel)


def kernel_metrics(log_weights_BK: Tensor) -> dict[str, Tensor]:
    """Effective sample size and entropy (nats) ``[B]``; NaN for a prompt without candidates."""
    empty_B = ~torch.isfinite(log_weights_BK).any(1)
    return {
        "kernel/ess": effective_sample_size(log_weights_BK).masked_fill(empty_B, math.nan),
        "kernel/entropy": entropy(log_weights_BK).masked_fill(empty_B, math.nan),
    }


def keep_all(trees: Sequence[PromptTree], ref_logps_BK: Tensor) -> PreferenceBatch:
    """Keep y0 and every candidate of each tree, in the data's order."""
    valid_BK = valid_columns(trees, first=1)
    columns_BK = torch.arange(valid_BK.shape[1]).expand(valid_BK.shape)
    return prune(trees, columns_BK.where(valid_BK, -1)[:, 1:], ref_logps_BK)


def prune(trees: Sequence[PromptTree], columns_BM: Tensor, ref_logps_BK: Tensor) -> PreferenceBatch:
    """Keep y0 and the drawn columns of each tree (-1 = no candidate was left), and build the batch's tables."""
    columns = [(0, *(column for column in row if column >= 0)) for row in columns_BM.tolist()]
    pruned = [tree.keep(kept) for tree, kept in zip(trees, columns, strict=True)]
    references = [ref_logps_BK[row, list(kept)] for row, kept in enumerate(columns)]
    width = 1 + columns_BM.shape[1]
    return PreferenceBatch(
        trees=tuple(pruned),
        columns=tuple(columns),
        ref_logps_BK=padded_table(references, width),
        lengths_BK=padded_table([[len(tokens) for tokens in tree.completions] for tree in pruned], width, 1.0),
        valid_BK=padded_table([[True] * len(tree.completions) for tree in pruned], width).bool(),
        scores_BK=padded_table([() if tree.scores is None else tree.scores for tree in pruned], width, math.nan),
        ranks_BK=padded_table([tree.ranks for tree in pruned], width).long(),
    )


def valid_columns(trees: Sequence[PromptTree], first: int) -> Tensor:
    """``[B, K]``, True for columns ``first`` … of each tree's own completions."""
    counts_B = torch.tensor([len(tree.completions) for tree in trees])
    columns_K = torch.arange(int(counts_B.max()))
    return (columns_K[None, :] < counts_B[:, None]) & (columns_K[None, :] >= first)


def padded_table(rows: Sequence, num_columns: int | None = None, padding: float = 0.0) -> Tensor:
    """Pad ragged rows to a float32 table ``[B, num_columns]``, by default as wide as the longest row."""
    table = torch.full((len(rows), num_columns or max(len(row) for row in rows)), padding)
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.as_tensor(np.asarray(row, dtype=np.float32))
    return table
