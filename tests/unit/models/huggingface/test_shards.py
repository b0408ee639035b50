# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.models.huggingface.shards import plan_shards, write_shards

SHAPES = {"a": (10,), "b": (5, 2), "c": (30,), "d": (1,)}


def test_a_file_exceeds_the_limit_only_for_a_single_tensor():
    shards = plan_shards(SHAPES, torch.float32, max_bytes=80)
    assert [list(shapes) for shapes in shards.values()] == [["a", "b"], ["c"], ["d"]]
    assert list(shards) == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert list(plan_shards(SHAPES, torch.float32, max_bytes=4 * 51)) == ["model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("max_bytes", [1, 80, 1000])
def test_files_are_safetensors_with_an_index(tmp_path, dtype, max_bytes):
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in SHAPES.items()}
    shards = plan_shards(SHAPES, dtype, max_bytes)
    write_shards(tmp_path, shards, dtype, tensors.items())
    read = {name: tensor for file in shards for name, tensor in load_file(tmp_path / file).items()}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    if len(shards) > 1:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == 51 * dtype.itemsize
        assert index["weight_map"] == {name: file for file, shapes in shards.items() for name in shapes}


def test_a_tensor_that_was_not_planned_is_refused(tmp_path):
    shards = plan_shards({"a": (2,)}, torch.float32, 100)
    for name, tensor in (("b", torch.ones(2)), ("a", torch.ones(3)), ("a", torch.ones(2).double()), ("a", None)):
        with pytest.raises(CheckpointError, match="the model and its architecture disagree"):
            write_shards(tmp_path, shards, torch.float32, [(name, tensor)])
