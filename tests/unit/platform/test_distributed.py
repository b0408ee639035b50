# SPDX-License-Identifier: Apache-2.0
"""Process groups of one process: set up and shut down; errors on rank 0 end every rank."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from nemo_mcpo.errors import DataError
from nemo_mcpo.platform import distributed
from nemo_mcpo.platform.command import FailedElsewhere
from nemo_mcpo.platform.distributed import (
    any_rank,
    initialize_parallel,
    is_rank_zero,
    local_device,
    on_rank_zero,
    shut_down,
)


@pytest.fixture
def groups():
    """A fresh parallel state; one that another test left is shut down first."""
    if dist.is_initialized():
        shut_down()
    initialize_parallel(tensor_parallel=1, pipeline_parallel=1, virtual_pipeline_parallel=None, seed=1)
    yield
    shut_down()


def test_one_process(groups):
    assert dist.get_world_size() == parallel_state.get_data_parallel_world_size() == 1
    assert parallel_state.get_tensor_model_parallel_world_size() == 1
    assert parallel_state.get_pipeline_model_parallel_world_size() == 1
    assert is_rank_zero()
    assert local_device() == torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_a_process_can_start_again():
    for _ in range(2):
        if dist.is_initialized():
            shut_down()
        initialize_parallel(tensor_parallel=1, pipeline_parallel=1, virtual_pipeline_parallel=None, seed=1)
        shut_down()
        assert not dist.is_initialized()
        assert not parallel_state.model_parallel_is_initialized()


def test_without_groups_this_is_rank_zero():
    if dist.is_initialized():
        shut_down()
    assert is_rank_zero()


@pytest.mark.parametrize("flag", [True, False])
def test_any_rank_of_one(groups, flag):
    assert any_rank(flag) is flag


def test_on_rank_zero_returns_the_value_and_raises_the_error(groups):
    assert on_rank_zero(lambda: {"steps": [1, 2]}) == {"steps": [1, 2]}

    def fail():
        raise DataError("no data")

    with pytest.raises(DataError, match="no data"):
        on_rank_zero(fail)


@pytest.mark.parametrize(("outcome", "code"), [([None, 2], 2), ([None, 1], 1)])
def test_other_ranks_exit_without_a_message(groups, monkeypatch, outcome, code):
    def broadcast(values: list) -> None:
        values[:] = outcome

    monkeypatch.setattr(distributed, "is_rank_zero", lambda: False)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "broadcast_object_list", broadcast)
    calls = []
    with pytest.raises(FailedElsewhere) as caught:
        on_rank_zero(lambda: calls.append(1))
    assert caught.value.exit_code == code
    assert calls == []
