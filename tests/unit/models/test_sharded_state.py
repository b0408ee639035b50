# SPDX-License-Identifier: Apache-2.0
"""Weights and optimizer continue bit for bit; three steps after loading would reveal a shared step counter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values

from nemo_mcpo.errors import CheckpointError, MemoryExhaustedError
from nemo_mcpo.models import sharded_state
from nemo_mcpo.models.optimizer import fuse_torch_adam, optimizer_parts
from nemo_mcpo.models.sharded_state import load_sharded_state, save_sharded_state
from tests.support.small_gpt import parameters_of, small_model, train, trainable_model
from tests.support.trees import random_trees

TREES = random_trees([3, 2, 4], seed=13)
CHANGES = {"model__optim__lr": 1e-3, "model__optim__weight_decay": 0.1}
STEPS_BEFORE, STEPS_AFTER = 2, 4

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture(scope="module")
def saved(one_process, llama_directory, tmp_path_factory) -> tuple[Path, list, dict[str, dict[str, torch.Tensor]]]:
    """A checkpoint after two steps, the results of the following steps, and the weights at both ends."""
    directory = tmp_path_factory.mktemp("checkpoint")
    model = trainable_model(llama_directory, **CHANGES)
    train(model, TREES, STEPS_BEFORE)
    save_sharded_state(model, directory)
    weights = {"saved": parameters_of(model)}
    following = train(model, TREES, STEPS_AFTER)
    return directory, following, weights | {"end": parameters_of(model)}


def adam_states(model) -> list[dict[str, torch.Tensor]]:
    return [state for part in model.optimizer.chained_optimizers for state in part.optimizer.state.values()]


def test_a_loaded_run_equals_the_uninterrupted_one_bit_for_bit(llama_directory, saved):
    directory, following, weights = saved
    model = trainable_model(llama_directory, **CHANGES)
    load_sharded_state(model, directory)
    model.schedule.step(increment=STEPS_BEFORE)
    for name, value in parameters_of(model).items():
        assert torch.equal(value, weights["saved"][name]), name
    assert train(model, TREES, STEPS_AFTER) == following
    for name, value in parameters_of(model).items():
        assert torch.equal(value, weights["end"][name]), name


def test_every_parameter_counts_its_own_steps(llama_directory, saved):
    model = trainable_model(llama_directory, **CHANGES)
    load_sharded_state(model, saved[0])
    steps = [state["step"] for state in adam_states(model)]
    assert len(steps) > 2
    assert [step.item() for step in steps] == [STEPS_BEFORE] * len(steps)
    assert len({step.data_ptr() for step in steps}) == len(steps)
    train(model, TREES, 1)
    assert [state["step"].item() for state in adam_states(model)] == [STEPS_BEFORE + 1] * len(steps)


def test_the_implementation_of_adam_is_this_machine_s(llama_directory, tmp_path):
    """A checkpoint from another Adam, or from a machine without a GPU, does not change it."""
    model = trainable_model(llama_directory, **CHANGES)
    train(model, TREES, 1)
    save_sharded_state(model, tmp_path)
    again = trainable_model(llama_directory, **CHANGES)
    fuse_torch_adam(again.optimizer)
    load_sharded_state(again, tmp_path)
    groups = [group for part in optimizer_parts(again.optimizer) for group in part.optimizer.param_groups]
    assert [(group["fused"], group["foreach"]) for group in groups] == [(True, False)] * len(groups)
    assert train(again, TREES, 1)[0][0] == pytest.approx(train(model, TREES, 1)[0][0], rel=1e-5)


def test_states_are_written_from_memory_of_their_own(llama_directory):
    """megatron-core copies all views at once before it writes them."""
    model = trainable_model(llama_directory, **CHANGES)
    train(model, TREES, 1)
    tensors = list(nested_values(sharded_state.sharded_state(model)["optimizer"]["param_state"]))
    assert len(tensors) > 3 * len(list(model.chunks[0].parameters()))  # gate and up are separate
    for tensor in tensors:
        assert tensor.data.untyped_storage().size() == tensor.data.nbytes


def test_weights_alone_load_without_an_optimizer(llama_directory, saved):
    model = small_model(llama_directory)
    load_sharded_state(model, saved[0])
    for name, value in parameters_of(model).items():
        assert torch.equal(value, saved[2]["saved"][name]), name


@pytest.mark.parametrize(("doing", "call"), [("save", save_sharded_state), ("load", load_sharded_state)])
def test_out_of_memory_is_not_a_damaged_checkpoint(llama_directory, saved, monkeypatch, tmp_path, doing, call):
    def too_much(*arguments, **options) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 30.00 GiB.")

    monkeypatch.setattr(sharded_state.dist_checkpointing, doing, too_much)
    with pytest.raises(MemoryExhaustedError) as caught:
        call(small_model(llama_directory), saved[0] if doing == "load" else tmp_path)
    assert caught.value.where == {"save": "writing a checkpoint", "load": "reading a checkpoint"}[doing]
    assert "30.00 GiB" in caught.value.got


def test_a_directory_that_is_not_a_checkpoint(llama_directory, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        load_sharded_state(small_model(llama_directory), tmp_path)
    assert caught.value.where == str(tmp_path) and caught.value.got and "delete this directory" in caught.value.fix
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint(llama_directory, saved, tmp_path):
    for file in saved[0].iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: len(content) // 3] if file.suffix == ".distcp" else content)
    with pytest.raises(CheckpointError, match="cannot load the checkpoint") as caught:
        load_sharded_state(small_model(llama_directory), tmp_path)
    assert caught.value.where == str(tmp_path) and caught.value.got
