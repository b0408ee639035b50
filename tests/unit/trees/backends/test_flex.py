# SPDX-License-Identifier: Apache-2.0
"""FlexAttention's mask function allows exactly what the trees allow."""

from __future__ import annotations

import pytest
import torch

from nemo_mcpo.trees.backends.flex import block_mask
from nemo_mcpo.trees.params import TreeParams
from tests.support.sequences import places_of_sequences
from tests.unit.trees.backends.test_backends import ROWS


@pytest.mark.parametrize("row", list(ROWS)[:3])
def test_the_mask_is_that_of_separate_sequences(row):
    spans = ROWS[row]
    allowed = block_mask(TreeParams(spans=spans)).mask_mod
    index = torch.arange(spans[-1].stop)
    found = allowed(torch.tensor(0), torch.tensor(0), index[:, None], index[None, :])
    expected = torch.zeros(len(index), len(index), dtype=torch.bool)
    for places in places_of_sequences(spans):
        expected[places[:, None], places[None, :]] |= torch.ones(len(places), len(places), dtype=torch.bool).tril()
    assert torch.equal(found, expected)
