# SPDX-License-Identifier: Apache-2.0
"""Tests that run on the CPU and, with ``-m gpu``, on the GPU."""

from __future__ import annotations

import pytest
import torch

from nemo_mcpo.platform.distributed import local_device


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, one_process) -> torch.device:
    """The device that the package selects."""
    assert local_device().type == request.param
    return local_device()
