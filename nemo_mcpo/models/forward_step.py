# SPDX-License-Identifier: Apache-2.0
"""The forward step: packed trees through megatron-core's pipeline schedules, for scoring and for training.

Both passes take a replica's trees and return ``[b, …]`` tables on all of its tensor- and pipeline-parallel ranks:

    trees ─ packed into rows ─ schedule ─ values per completion ─ tables

Replicas do not wait for each other: values that every rank needs are collected once per step (``collect``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from nemo_mcpo.models.pipeline import run_schedule
from nemo_mcpo.models.replay import Recording
from nemo_mcpo.models.rows import Row, Scored, packed_rows, replay_rows
from nemo_mcpo.platform.distributed import local_device
from nemo_mcpo.platform.transfer import on_device
from nemo_mcpo.records import Objective, ObjectiveInputs, PreferenceBatch, PromptTree, TreeBatch
from nemo_mcpo.trees.packing import PlacedTree

RowLoss = Callable[[TreeBatch, Tensor], tuple[Tensor, Tensor, dict[str, Tensor]]]


def run_rows(chunks: list, rows: Sequence[Row], row_loss: RowLoss, *, forward_only: bool) -> None:
    """Run the rows as micro-batches; the last pipeline stage calls ``row_loss`` on each row's log-probs."""

    def forward_step(iterator: Iterator[Row], model) -> tuple[Tensor, Callable]:
        row = next(iterator)
        return model(row.batch, row.tape), lambda output: row_loss(row.batch, output)

    run_schedule(chunks, rows, forward_step, seq_length=len(rows[0].batch.tokens_S), forward_only=forward_only)


def score_trees(
    chunks: list,
    trees: Sequence[PromptTree],
    budget: int,
    *,
    first_column: int = 0,
    share_prompts: bool = True,
    recording: Callable[[], Recording] | None = None,
) -> Scored:
    """Return the summed log-prob of every completion on every rank of the replica; forward only, without gradient.

    Args:
        budget: tokens per row.
        first_column: 1 skips the preferred completion; its layers still run if they are recorded.
        share_prompts: see ``packed_rows``.
        recording: makes a tape per row, for ``train_trees``.
    """
    left_out = 0 if recording else first_column
    placed = [
        PlacedTree(tree, prompt, tuple(range(left_out, left_out + len(tree.completions))))
        for prompt, tree in enumerate(replace(tree, completions=tree.completions[left_out:]) for tree in trees)
        if tree.completions
    ]
    num_columns = max((len(tree.completions) for tree in trees), default=1)
    table = torch.zeros(len(trees), num_columns, dtype=torch.float32, device=local_device())

    def collect(row: TreeBatch, logps_N: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        table[row.prompt_N, row.column_N] = logps_N.detach().float()
        return logps_N.sum(), _no_count(), {}

    with torch.no_grad():
        rows = packed_rows(
            placed,
            budget,
            chunks[0].config,
            first_column=first_column,
            recording=recording,
            share_prompts=share_prompts,
        )
        run_rows(chunks, rows, collect, forward_only=True)
    return Scored(_on_all_stages(table), tuple(rows) if recording else ())


def train_trees(
    chunks: list,
    batch: PreferenceBatch,
    objective: Objective,
    budget: int,
    *,
    scored: Scored | None = None,
    share_prompts: bool = True,
) -> tuple[Tensor, list[str]]:
    """Run a batch forward and backward, adding the gradients of the summed losses to those in the model.

    Args:
        budget: tokens per row.
        scored: the scores that the batch was drawn from; anything recorded with them is replayed.
        share_prompts: see ``packed_rows``.

    Returns:
        On every rank of the replica, a table ``[b, 1 + metrics]`` with each prompt's loss (nats) and metrics, and the
        metrics' names.
    """
    names = _metric_names(objective, batch)
    table = torch.zeros(len(batch.trees), 1 + len(names), dtype=torch.float32, device=local_device())
    read = on_device(batch.tables, local_device())
    placed = [PlacedTree(tree, prompt, tuple(range(len(tree.completions)))) for prompt, tree in enumerate(batch.trees)]

    def loss(row: TreeBatch, logps_N: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if not len(row.prompts_b):  # a padding row: no loss, but the schedule needs its graph
            return logps_N.sum(), _no_count(), {}
        empty = logps_N.new_zeros(len(row.prompts_b), batch.valid_BK.shape[1])
        policy = empty.index_put((row.place_N, row.column_N), logps_N)
        reference, lengths, valid, scores, ranks = (values.index_select(0, row.prompts_b) for values in read)
        outputs = objective(ObjectiveInputs(policy, reference, lengths, valid, scores, ranks))
        metrics = [outputs.metrics[name] for name in names]
        table[row.prompts_b] = torch.stack([outputs.loss, *metrics], dim=1).detach().float()
        # The schedule may scale the loss in place, so it gets the sum, which the table does not share.
        return outputs.loss.sum(), _no_count(), {}

    config = chunks[0].config
    if scored is not None and scored.rows:
        rows = replay_rows(scored.rows, placed, batch.columns, budget, config)
    else:
        rows = packed_rows(placed, budget, config, share_prompts=share_prompts)
    run_rows(chunks, rows, loss, forward_only=False)
    return _on_all_stages(table), names


def _no_count() -> Tensor:
    """Return a token count of zero.

    If a loss function returns a count, megatron-core sums the losses instead of averaging them over micro-batches. The
    optimizer step divides by the number of prompts.
    """
    return torch.zeros((), dtype=torch.int, device=local_device())


def _metric_names(objective: Objective, batch: PreferenceBatch) -> list[str]:
    """Return the metrics' names, found by calling the objective on zeros.

    Every rank needs the table's width, but only the last stage has real values.
    """
    valid = batch.valid_BK[:1]
    zeros = torch.zeros(valid.shape)
    ranks = torch.arange(valid.shape[1])[None, :]
    return list(objective(ObjectiveInputs(zeros, zeros, torch.ones_like(zeros), valid, zeros, ranks)).metrics)


def _on_all_stages(table: Tensor) -> Tensor:
    """Copy the table to all stages. Every tensor-parallel rank of the last stage filled it; rank 0's values count."""
    group = parallel_state.get_model_parallel_group()
    if dist.get_world_size(group) > 1:
        if parallel_state.get_tensor_model_parallel_rank() != 0:
            table.zero_()
        dist.all_reduce(table, group=group)
    return table


def collect(values_b: Tensor, rows: Sequence[int], num_rows: int) -> Tensor:
    """Combine every replica's rows ``[b, …]`` into one table ``[num_rows, …]``; ``rows`` are their places in it."""
    table = values_b.new_zeros(num_rows, *values_b.shape[1:])
    [places] = on_device([torch.tensor(rows, dtype=torch.long)], values_b.device)
    table[places] = values_b
    group = parallel_state.get_data_parallel_group()
    if dist.get_world_size(group) > 1:
        dist.all_reduce(table, group=group)
    return table
