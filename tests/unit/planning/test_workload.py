# SPDX-License-Identifier: Apache-2.0
"""Planned rows equal those that the engine packs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemo_mcpo.models.gpt import ParallelLayout
from nemo_mcpo.planning.data_shape import DataShape
from nemo_mcpo.planning.memory import in_flight
from nemo_mcpo.planning.workload import Layout, rows_of
from nemo_mcpo.trees.packing import pack_into_rows
from tests.support.configs import checked
from tests.support.planned import DATA, NUM_TREES, ROW_TOKENS, layout_of


@pytest.mark.parametrize("prompts", [1, 7, 30])
@pytest.mark.parametrize("pipeline", [1, 2, 4])
def test_rows_are_counted_as_they_are_packed(prompts, pipeline):
    layout = replace(layout_of(ParallelLayout(pipeline=pipeline)), global_batch_size=prompts)
    rows = rows_of(layout, DATA)
    packed = pack_into_rows([100] * prompts, ROW_TOKENS, at_least=4 * pipeline if pipeline > 1 else 1)
    assert rows.count == len(packed)
    assert rows.even == 100 * prompts / len(packed)


def test_the_replica_with_most_prompts_counts():
    assert rows_of(replace(layout_of(ParallelLayout()), data=3, global_batch_size=7), DATA).prompts == 3


def test_reuse_trains_in_parts():
    layout = replace(layout_of(ParallelLayout(recompute="full")), reuse="layers", scoring_tokens=500)
    rows = rows_of(layout, DATA)
    assert rows.recorded == 3 * 160  # whole trees of 40 + 4 x 30 tokens
    assert rows.count == 2  # of two trained trees of 100 tokens, and of one


def test_a_known_longest_prompt_gets_its_own_row():
    data = DataShape(64, 40, 30, 3, 3, longest=1600, longest_trained=1100)
    rows = rows_of(layout_of(ParallelLayout()), data)
    assert (rows.scored, rows.largest) == (1600, 1100)


def test_a_mean_prompt_larger_than_the_budget_gets_its_own_row():
    data = DataShape(64, 40, 300, 3, 3)
    rows = rows_of(layout_of(ParallelLayout()), data)  # budgets of 200 tokens
    assert (rows.scored, rows.largest) == (40 + 4 * 300, 40 + 2 * 300)
    assert (rows.count, rows.even) == (NUM_TREES, 640)


@pytest.mark.parametrize(
    ("pipeline", "virtual", "rows", "flying"),
    [(1, 1, 8, [1]), (4, 1, 8, [4, 3, 2, 1]), (4, 1, 2, [2, 2, 2, 1]), (2, 2, 8, [5, 3])],
)
def test_rows_in_flight(pipeline, virtual, rows, flying):
    layout = layout_of(ParallelLayout(pipeline=pipeline, virtual_pipeline=virtual))
    assert [in_flight(layout, rows, stage) for stage in range(pipeline)] == flying


def test_the_layout_of_a_configuration():
    config = checked({"model.tensor_model_parallel_size": 2, "model.activations_checkpoint_granularity": "full"}, 8)
    layout = Layout.from_config(config, 8)
    assert (layout.data, layout.num_gpus, layout.recompute, layout.reuse, layout.split) == (4, 8, "full", "layers", 1)
    assert Layout.from_config(checked({"model.mcpo.sampler": "random"}), 1).reuse is None
    assert layout.global_batch_size == NUM_TREES
