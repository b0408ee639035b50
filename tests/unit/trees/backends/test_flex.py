# SPDX-License-Identifier: Apache-2.0
"""FlexAttention's mask allows exactly what trees allow, and its blocks cover exactly that mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from nemo_mcpo.records import TreeSpan
from nemo_mcpo.trees.backends.flex import attending_blocks, block_mask
from nemo_mcpo.trees.params import TreeParams
from tests.support.sequences import places_of_sequences
from tests.unit.trees.backends.test_backends import ROWS


@pytest.mark.parametrize("row", list(ROWS)[:3])
def test_mask_equals_that_of_separate_sequences(row):
    spans = ROWS[row]
    allowed = block_mask(TreeParams(spans=spans)).mask_mod
    index = torch.arange(spans[-1].stop)
    found = allowed(torch.tensor(0), torch.tensor(0), index[:, None], index[None, :])
    expected = torch.zeros(len(index), len(index), dtype=torch.bool)
    for places in places_of_sequences(spans):
        expected[places[:, None], places[None, :]] |= torch.ones(len(places), len(places), dtype=torch.bool).tril()
    assert torch.equal(found, expected)


LONG_ROWS = {
    "edges between blocks": (TreeSpan(0, 300, (301, 640, 1000)), TreeSpan(1000, 1001, (1024,)), TreeSpan(1024, 1100)),
    "edges on blocks": (TreeSpan(0, 256, (512, 1024)), TreeSpan(1024, 1280)),
    "shorter than a block": (TreeSpan(0, 40, (41, 75, 77, 78)), TreeSpan(78, 81)),
}


@pytest.mark.parametrize("row", LONG_ROWS)
def test_blocks_match_the_mask(row):
    mask = block_mask(TreeParams(spans=LONG_ROWS[row]))
    length = LONG_ROWS[row][-1].stop
    expected = create_block_mask(mask.mask_mod, None, None, length, length, device="cpu")
    assert torch.equal(mask.to_dense(), expected.to_dense())
    full, most = attending_blocks(LONG_ROWS[row])[1], blocks_of(expected.full_kv_num_blocks, expected.full_kv_indices)
    assert (full <= most).all()  # a block may be full by two completions together, which is computed with its mask
    assert full.any() == most.any()
    query, key, value = (torch.randn(1, 2, length, 16) for _ in range(3))
    attended = [flex_attention(query, key, value, block_mask=one) for one in (mask, expected)]
    torch.testing.assert_close(*attended)


def blocks_of(counts: torch.Tensor, numbers: torch.Tensor) -> np.ndarray:
    blocks = np.zeros(numbers.shape[-2:], bool)
    for row, (count, columns) in enumerate(zip(counts[0, 0].tolist(), numbers[0, 0].tolist(), strict=True)):
        blocks[row, columns[:count]] = True
    return blocks
