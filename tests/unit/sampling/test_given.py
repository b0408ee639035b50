# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch

from nemo_mcpo.sampling import SAMPLERS


def test_first_valid_columns_in_order():
    valid = torch.tensor([[False, True, True, True], [False, False, True, True], [True, False, False, False]])
    log_weights = torch.tensor([[0.0, 1.0, 9.0, 5.0]]).expand(3, 4)
    columns = SAMPLERS["given"](log_weights, valid, 2, torch.Generator())
    assert columns.tolist() == [[1, 2], [2, 3], [0, -1]]
