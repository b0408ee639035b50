# SPDX-License-Identifier: Apache-2.0
"""Which rows a replica runs: its share of the trees, packed, and rounded to what the layout asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from megatron.core import parallel_state

from nemo_mcpo.models.tape import Recording, Tape, kept_positions
from nemo_mcpo.platform.distributed import local_device
from nemo_mcpo.records import PromptTree, TreeBatch
from nemo_mcpo.trees.packing import PlacedTree, build_row, pack_into_rows, separate, share_between_ranks

MICRO_BATCHES_PER_STAGE = 4
"""Rows that a pipeline gets for each of its stages where there are trees enough: a pipeline of p stages idles for
(p - 1) / (m + p - 1) of its time with m micro-batches."""


@dataclass(frozen=True, slots=True)
class Row:
    """One micro-batch: a packed row, the trees in it, and what its layers ask before they compute."""

    batch: TreeBatch
    placed: tuple[PlacedTree, ...]
    tape: Tape | None = None


def share_of_replica(trees: Sequence[PromptTree]) -> list[int]:
    """Indices of this data-parallel replica's share: all replicas get about the same number of tokens."""
    shares = share_between_ranks([tree.num_tokens for tree in trees], parallel_state.get_data_parallel_world_size())
    return shares[parallel_state.get_data_parallel_rank()]


def packed_rows(
    placed: Sequence[PlacedTree],
    budget: int,
    config,
    *,
    recording: Callable[[], Recording] | None = None,
    share_prompts: bool = True,
) -> list[Row]:
    """The rows of a replica's trees; all its tensor and pipeline ranks build the same ones.

    Args:
        placed: the trees of this replica.
        budget: tokens a row; a larger tree gets a row of its own.
        config: megatron-core's configuration.
        recording: makes the tape of every row, for ``replay_rows``.
        share_prompts: False gives every completion a prompt of its own, as a program without trees would.
    """
    groups = [(item,) if share_prompts else tuple(separate(item)) for item in placed]
    packed = _pack(groups, budget, config, at_least=_micro_batches(config))
    return [Row(_build(row, config), row, recording() if recording else None) for row in packed]


def replay_rows(
    scored: Sequence[Row], pruned: Sequence[PlacedTree], columns: Sequence[Sequence[int]], budget: int, config
) -> list[Row]:
    """Rows of the pruned trees that read from the recordings of ``scored``.

    A training row holds trees of one scored row only.

    Args:
        scored: ``packed_rows(…, recording=…)`` after they were run.
        pruned: the pruned trees, in the order in which the whole trees were scored.
        columns: of each prompt, the columns of the scored tree that its pruned tree has.
        budget: tokens a row.
        config: megatron-core's configuration.

    Raises:
        ValueError: the pruned trees are of other prompts than the scored ones.
    """
    rows = []
    for whole in scored:
        spans = {item.prompt: span for item, span in zip(whole.placed, whole.batch.spans, strict=False)}
        mine = [(pruned[prompt],) for prompt in spans]
        if [one.tree.prompt_id for (one,) in mine] != [item.tree.prompt_id for item in whole.placed]:
            raise ValueError("the trees to train are not those that were scored last, pruned")
        at_least = -(-_micro_batches(config) // len(scored))
        for row in _pack(mine, budget, config, at_least=at_least):
            batch = _build(row, config)
            source_S = np.zeros(len(batch.tokens_S), np.int64)
            kept = [kept_positions(spans[item.prompt], columns[item.prompt]) for item in row]
            num_kept = sum(len(positions) for positions in kept)
            source_S[:num_kept] = np.concatenate(kept) if kept else 0
            source = torch.from_numpy(source_S).to(local_device())
            tape = whole.tape.replay(source, sequence_parallel=config.sequence_parallel)  # type: ignore[union-attr]
            rows.append(Row(batch, row, tape))
    return rows


def _pack(
    groups: Sequence[tuple[PlacedTree, ...]], budget: int, config, at_least: int
) -> list[tuple[PlacedTree, ...]]:
    """The trees of each row; those of a group, which are of one prompt, stay together."""
    # The interleaved schedule takes micro-batches in groups of the pipeline's size.
    multiple = _stages(config) if config.virtual_pipeline_model_parallel_size else 1
    packed = pack_into_rows([_num_tokens(group) for group in groups], budget, at_least=at_least, multiple=multiple)
    rows = [tuple(tree for item in row for tree in groups[item]) for row in packed]
    return rows or [()] * _stages(config)  # a rank without trees takes part with rows of padding


def _build(placed: Sequence[PlacedTree], config) -> TreeBatch:
    multiple = (config.tensor_model_parallel_size if config.sequence_parallel else 1) * (16 if config.fp8 else 1)
    return build_row(placed, -(-max(_num_tokens(placed), 1) // multiple) * multiple, local_device())


def _num_tokens(placed: Sequence[PlacedTree]) -> int:
    return sum(item.tree.num_tokens for item in placed)


def _stages(config) -> int:
    return config.pipeline_model_parallel_size


def _micro_batches(config) -> int:
    return MICRO_BATCHES_PER_STAGE * _stages(config) if _stages(config) > 1 else 1
