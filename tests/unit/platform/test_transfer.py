# SPDX-License-Identifier: Apache-2.0
"""One buffer holds tensors of any dtype and shape, and returns them unchanged."""

from __future__ import annotations

import pytest
import torch

from nemo_mcpo.platform.transfer import ALIGNMENT, on_device, packed, sent, unpacked

TENSORS = [
    torch.arange(5),
    torch.tensor([True, False, True]),
    torch.empty(0, dtype=torch.int64),
    torch.randn(3, 2),
    torch.tensor(2.5, dtype=torch.float64),
    torch.arange(7, dtype=torch.int32),
    torch.randn(2, 3).t(),
    torch.randn(4).to(torch.bfloat16),
]


@pytest.mark.parametrize("tensors", [TENSORS, TENSORS[::-1], TENSORS[:1], TENSORS[2:3], []], ids=len)
def test_unpacking_returns_what_was_packed(tensors):
    buffer = packed(tensors, pinned=False)
    assert buffer.dtype == torch.uint8 and len(buffer) % ALIGNMENT == 0
    found = unpacked(buffer, tensors)
    assert len(found) == len(tensors)
    for one, expected in zip(found, tensors, strict=True):
        assert one.dtype == expected.dtype and one.shape == expected.shape
        assert torch.equal(one, expected)
        assert (one.data_ptr() - buffer.data_ptr()) % ALIGNMENT == 0 or not one.numel()


def test_views_of_one_buffer():
    """Nothing is copied again after the buffer has arrived."""
    buffer = packed(TENSORS, pinned=False)
    storages = {one.untyped_storage().data_ptr() for one in unpacked(buffer, TENSORS)}
    assert storages == {buffer.untyped_storage().data_ptr()}


def test_tensors_that_are_on_the_device_are_returned_as_they_are():
    cpu = torch.device("cpu")
    assert all(found is given for found, given in zip(on_device(TENSORS, cpu), TENSORS, strict=True))
    assert sent(TENSORS[0], cpu) is TENSORS[0]
    assert [one.device.type for one in on_device(TENSORS, torch.device("meta"))] == ["meta"] * len(TENSORS)
