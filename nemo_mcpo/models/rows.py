# SPDX-License-Identifier: Apache-2.0
"""The rows that a replica runs: its share of the trees, packed, and padded as the layout requires."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.fp8_utils import get_fp8_align_size
from torch import Tensor

from nemo_mcpo.models.budgets import MICRO_BATCHES_PER_STAGE
from nemo_mcpo.models.replay import Recording, kept_positions
from nemo_mcpo.platform.distributed import local_device
from nemo_mcpo.platform.transfer import on_device
from nemo_mcpo.records import PromptTree, TreeBatch
from nemo_mcpo.trees.packing import (
    PlacedTree,
    as_sequences,
    build_row,
    pack_into_rows,
    separate,
    share_between_ranks,
)
from nemo_mcpo.trees.params import Tape


@dataclass(frozen=True, slots=True)
class Row:
    """One micro-batch: a packed row, its trees, and the tape that records or replays its layers."""

    batch: TreeBatch
    placed: tuple[PlacedTree, ...]
    tape: Tape | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """Result of the scoring pass.

    Attributes:
        logps_bK: summed log-probs, nats, float32; 0 in columns that were skipped or do not exist.
        rows: the rows with their recordings, which training on the pruned trees replays; empty without recordings.
    """

    logps_bK: Tensor
    rows: tuple[Row, ...]


def share_of_replica(trees: Sequence[PromptTree]) -> list[int]:
    """Return the indices of this data-parallel replica's share; shares have about the same number of tokens."""
    shares = share_between_ranks([tree.num_tokens for tree in trees], parallel_state.get_data_parallel_world_size())
    return shares[parallel_state.get_data_parallel_rank()]


def packed_rows(
    placed: Sequence[PlacedTree],
    budget: int,
    config,
    *,
    first_column: int = 0,
    recording: Callable[[], Recording] | None = None,
    share_prompts: bool = True,
) -> list[Row]:
    """Pack a replica's trees into rows, the same on all of its tensor- and pipeline-parallel ranks.

    Args:
        budget: tokens per row; a larger tree gets its own row.
        config: megatron-core's configuration.
        first_column: see ``build_row``.
        recording: makes a tape per row, for ``replay_rows``.
        share_prompts: if False, every completion becomes a plain sequence after its own prompt, as without trees.
    """
    groups = [(item,) if share_prompts else tuple(separate(item)) for item in placed]
    packed = pack_into_rows([_num_tokens(group) for group in groups], budget, at_least=_micro_batches(config))
    rows = [tuple(tree for item in row for tree in groups[item]) for row in packed]
    rows += [()] * _missing(len(rows), config)
    batches = [_build(row, config, first_column) for row in rows]
    if not share_prompts:
        batches = [as_sequences(batch) for batch in batches]
    return [Row(batch, row, recording() if recording else None) for batch, row in zip(batches, rows, strict=True)]


def replay_rows(
    scored: Sequence[Row], pruned: Sequence[PlacedTree], columns: Sequence[Sequence[int]], budget: int, config
) -> list[Row]:
    """Pack pruned trees into rows that replay the recordings of ``scored``.

    All trees of a training row come from the same scored row.

    Args:
        scored: rows from ``packed_rows(…, recording=…)`` that have been run.
        pruned: the pruned trees, in the order in which the whole trees were scored.
        columns: for each prompt, the columns of the scored tree that the pruned tree keeps.
        budget, config: see ``packed_rows``.

    Raises:
        ValueError: the pruned trees and the scored trees have different prompts.
    """
    rows = []
    for whole in scored:
        spans = {item.prompt: span for item, span in zip(whole.placed, whole.batch.spans, strict=False)}
        mine = [pruned[prompt] for prompt in spans]
        if [item.tree.prompt_id for item in mine] != [item.tree.prompt_id for item in whole.placed]:
            raise ValueError("the trees to train were not pruned from the scored trees")
        at_least = -(-_micro_batches(config) // len(scored))
        for items in pack_into_rows([item.tree.num_tokens for item in mine], budget, at_least=at_least):
            row = tuple(mine[item] for item in items)
            rows.append(
                _replayed(whole, row, [kept_positions(spans[i.prompt], columns[i.prompt]) for i in row], config)
            )
    return rows + [_replayed(scored[0], (), [], config) for _ in range(_missing(len(rows), config))]


def _replayed(whole: Row, row: tuple[PlacedTree, ...], kept: list[np.ndarray], config) -> Row:
    """Build a training row that replays ``whole``, where its tokens have the positions ``kept``."""
    batch = _build(row, config)
    source_S = np.zeros(len(batch.tokens_S), np.int64)  # padding reads any position
    source_S[: sum(map(len, kept))] = np.concatenate(kept) if kept else 0
    [source] = on_device([torch.from_numpy(source_S)], local_device())
    tape = whole.tape.replay(source, sequence_parallel=config.sequence_parallel)  # type: ignore[union-attr]
    return Row(batch, row, tape)


def _build(placed: Sequence[PlacedTree], config, first_column: int = 0) -> TreeBatch:
    multiple = config.tensor_model_parallel_size if config.sequence_parallel else 1
    if config.fp8:  # FP8 products require a multiple of this many tokens
        multiple *= get_fp8_align_size(config.fp8_recipe)
    length = -(-max(_num_tokens(placed), 1) // multiple) * multiple
    return build_row(placed, length, local_device(), first_column=first_column)


def _num_tokens(placed: Sequence[PlacedTree]) -> int:
    return sum(item.tree.num_tokens for item in placed)


def _missing(num_rows: int, config) -> int:
    """Return the number of padding rows to add; a rank without trees still takes part.

    The interleaved schedule runs micro-batches in groups of the pipeline's size. It needs at least two groups: with
    one, the backward pass waits forever for tensor shapes.
    """
    if config.virtual_pipeline_model_parallel_size:
        return max(-num_rows % _stages(config), 2 * _stages(config) - num_rows)
    return max(0, 1 - num_rows)


def _stages(config) -> int:
    return config.pipeline_model_parallel_size


def _micro_batches(config) -> int:
    return MICRO_BATCHES_PER_STAGE * _stages(config) if _stages(config) > 1 else 1
