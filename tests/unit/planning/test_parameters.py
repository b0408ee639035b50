# SPDX-License-Identifier: Apache-2.0
"""Sizes of public models and of their shards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemo_mcpo.models.gpt import ParallelLayout
from nemo_mcpo.planning.parameters import bucket_elements, stage_parameters
from nemo_mcpo.planning.shapes import SHAPES
from tests.support.planned import layout_of

PUBLISHED = {
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-7b": 7_615_616_512,
    "llama-3.1-8b": 8_030_261_248,
    "qwen3-8b": 8_190_735_360,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
}
"""Numbers of parameters in their safetensors files."""


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_have_the_published_number_of_parameters(name):
    assert SHAPES[name].num_parameters == PUBLISHED[name]


def test_ranks_add_up_to_the_model():
    shape = SHAPES["llama-3.1-70b"]
    layout = layout_of(ParallelLayout(tensor=8, pipeline=4))
    norms = (2 * shape.num_layers + 1) * shape.hidden_size
    ranks = sum(stage_parameters(shape, layout, stage) for stage in range(4))
    assert shape.vocab_size == shape.padded_vocab_size
    assert (ranks - norms) * 8 + norms == shape.num_parameters


def test_interleaving_moves_no_parameters():
    shape = SHAPES["llama-3.1-70b"]
    plain = layout_of(ParallelLayout(pipeline=4))
    assert [stage_parameters(shape, plain, stage) for stage in (0, 3)] == [
        stage_parameters(shape, replace(plain, virtual=5), stage) for stage in (0, 3)
    ]


def test_padding_of_buckets():
    assert bucket_elements([1, 64, 65], replicas=1) == 256  # 64 + 64 + 128
    assert bucket_elements([1], replicas=3) == 384  # a multiple of 128 and of 3
