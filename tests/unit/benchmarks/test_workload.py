# SPDX-License-Identifier: Apache-2.0
"""Synthetic trees have the requested shape."""

from __future__ import annotations

import pytest

from benchmarks.workload import Shape, synthetic_trees
from nemo_mcpo.errors import ConfigError


def test_trees_have_the_shape():
    trees = synthetic_trees(Shape(5, 3), num_prompts=2, num_completions=4, vocab_size=7, seed=0)
    assert [tree.num_tokens for tree in trees] == [5 + 4 * 3] * 2
    assert all(0 <= token < 7 for tree in trees for token in tree.prompt_tokens)
    assert trees.source(1) == "synthetic:1"


@pytest.mark.parametrize("text", ["250", "250x", "x250", "0x5", "5x-1", "axb", ""])
def test_invalid_shapes(text):
    with pytest.raises(ConfigError, match="--shape"):
        Shape.parse(text)
