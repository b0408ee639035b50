# SPDX-License-Identifier: Apache-2.0
"""The forward step: packed trees through megatron-core's pipeline schedules, for scoring and for training.

Both passes take trees in and give ``[B, …]`` tables out, whole on every rank, whatever the layout:

    trees ─ shared between data-parallel ranks ─ packed into rows ─ schedule ─ values per completion ─ tables
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from nemo_mcpo.models.pipeline import run_schedule
from nemo_mcpo.platform.distributed import local_device
from nemo_mcpo.records import Objective, ObjectiveInputs, PreferenceBatch, PromptTree, TreeBatch
from nemo_mcpo.trees.packing import PlacedTree, build_row, pack_into_rows, share_between_ranks

RowLoss = Callable[[TreeBatch, Tensor], tuple[Tensor, Tensor, dict[str, Tensor]]]


MICRO_BATCHES_PER_STAGE = 4
"""Rows that a pipeline gets for each of its stages where there are trees enough: a pipeline of p stages idles for
(p - 1) / (m + p - 1) of its time with m micro-batches."""


def rank_rows(placed: Sequence[PlacedTree], budget: int, config) -> list[TreeBatch]:
    """The rows of this rank's data-parallel replica; all its tensor and pipeline ranks build the same ones.

    Args:
        placed: the trees of the whole batch.
        budget: tokens a row; a larger tree gets a row of its own.
        config: megatron-core's configuration.
    """
    num_replicas = parallel_state.get_data_parallel_world_size()
    shares = share_between_ranks([item.tree.num_tokens for item in placed], num_replicas)
    mine = [placed[item] for item in shares[parallel_state.get_data_parallel_rank()]]
    stages = config.pipeline_model_parallel_size
    packed = pack_into_rows(
        [item.tree.num_tokens for item in mine],
        budget,
        at_least=MICRO_BATCHES_PER_STAGE * stages if stages > 1 else 1,
        # The interleaved schedule takes micro-batches in groups of the pipeline's size.
        multiple=stages if config.virtual_pipeline_model_parallel_size else 1,
    )
    rows = [[mine[item] for item in row] for row in packed] or [[]] * stages
    multiple = (config.tensor_model_parallel_size if config.sequence_parallel else 1) * (16 if config.fp8 else 1)
    lengths = [max(sum(item.tree.num_tokens for item in row), 1) for row in rows]
    return [
        build_row(row, -(-length // multiple) * multiple, local_device())
        for row, length in zip(rows, lengths, strict=True)
    ]


def run_rows(chunks: list, rows: list[TreeBatch], row_loss: RowLoss, *, forward_only: bool) -> None:
    """Run the rows as micro-batches; ``row_loss`` sees each row's log-probs on the last pipeline stage."""

    def forward_step(iterator: Iterator[TreeBatch], model) -> tuple[Tensor, Callable]:
        row = next(iterator)
        return model(row), lambda output: row_loss(row, output)

    run_schedule(chunks, rows, forward_step, seq_length=len(rows[0].tokens_S), forward_only=forward_only)


def score_trees(chunks: list, trees: Sequence[PromptTree], budget: int, first_column: int = 0) -> Tensor:
    """Summed log-prob of every completion, forward only, no gradient.

    Args:
        first_column: 1 leaves the preferred completion out.

    Returns:
        float32 ``[B, K]`` on every rank, nats; 0 in columns that were left out or do not exist.
    """
    placed = [
        PlacedTree(_without_first(tree, first_column), prompt, tuple(range(first_column, len(tree.completions))))
        for prompt, tree in enumerate(trees)
        if len(tree.completions) > first_column
    ]
    num_columns = max(len(tree.completions) for tree in trees)
    table = torch.zeros(len(trees), num_columns, dtype=torch.float32, device=local_device())

    def collect(row: TreeBatch, logps_N: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        table[row.prompt_N, row.column_N] = logps_N.detach().float()
        return logps_N.sum(), _count(0), {}

    with torch.no_grad():
        rows = rank_rows(placed, budget, chunks[0].config)
        run_rows(chunks, rows, collect, forward_only=True)
    return _sum_over_ranks(table)


def train_trees(chunks: list, batch: PreferenceBatch, objective: Objective, budget: int) -> tuple[Tensor, list[str]]:
    """Forward and backward over one global batch; gradients are left in the model, divided by its prompts.

    Returns:
        ``[B, 1 + metrics]`` on every rank: the loss of each prompt (nats) and its metrics, and the metrics' names.
    """
    names = _metric_names(objective, batch)
    table = torch.zeros(len(batch.trees), 1 + len(names), dtype=torch.float32, device=local_device())
    placed = [PlacedTree(tree, prompt, tuple(range(len(tree.completions)))) for prompt, tree in enumerate(batch.trees)]

    def loss(row: TreeBatch, logps_N: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        prompts_b, inverse_N = torch.unique(row.prompt_N, return_inverse=True)
        if len(prompts_b) == 0:  # a padding row: nothing to learn, but its graph must exist
            return logps_N.sum(), _count(0), {}
        width = batch.valid_BK.shape[1]
        policy = logps_N.new_zeros(len(prompts_b), width).index_put((inverse_N, row.column_N), logps_N)
        reference, lengths, valid = (
            values[prompts_b.cpu()].to(policy.device)
            for values in (batch.ref_logps_BK, batch.lengths_BK, batch.valid_BK)
        )
        outputs = objective(ObjectiveInputs(policy, reference, lengths, valid))
        metrics = [outputs.metrics[name] for name in names]
        table[prompts_b] = torch.stack([outputs.loss, *metrics], dim=1).detach().float()
        # The schedule may scale the loss in place: hand over the sum, keep the table.
        return outputs.loss.sum(), _count(len(prompts_b)), {}

    run_rows(chunks, rank_rows(placed, budget, chunks[0].config), loss, forward_only=False)
    return _sum_over_ranks(table), names


def _count(num_prompts: int) -> Tensor:
    """What megatron-core divides the summed gradients by: its token count, here the prompts."""
    return torch.tensor(num_prompts, dtype=torch.int, device=local_device())


def _without_first(tree: PromptTree, count: int) -> PromptTree:
    return PromptTree(tree.prompt_id, tree.index, tree.prompt_tokens, tree.completions[count:]) if count else tree


def _metric_names(objective: Objective, batch: PreferenceBatch) -> list[str]:
    """Every rank must know the table's width, but only the last stage sees real values: ask with zeros."""
    valid = batch.valid_BK[:1]
    zeros = torch.zeros(valid.shape)
    return list(objective(ObjectiveInputs(zeros, zeros, torch.ones_like(zeros), valid)).metrics)


def _sum_over_ranks(table: Tensor) -> Tensor:
    """Each prompt's row was filled on the last stage of one replica, by every tensor rank: take tensor rank 0's."""
    if dist.get_world_size() > 1:
        if parallel_state.get_tensor_model_parallel_rank() != 0:
            table.zero_()
        dist.all_reduce(table)
    return table
