# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from nemo_mcpo.sampling import SAMPLERS, kernel_log_weights
from tests.unit.sampling.frequencies import assert_frequencies, independent, plackett_luce, repeat


@pytest.mark.parametrize("num_negatives", [1, 2, 3])
@pytest.mark.parametrize("replacement", [False, True])
def test_frequencies_do_not_depend_on_rewards(num_negatives, replacement):
    valid = repeat([False, True, True, False, True])
    log_weights = kernel_log_weights(repeat([0.0, 1e6, -1e6, 0.0, 3.0]), 1.0, valid)
    generator = torch.Generator().manual_seed(23)
    columns = SAMPLERS["random"](log_weights, valid, num_negatives, generator, replacement=replacement)
    exact = independent if replacement else plackett_luce
    assert_frequencies(columns, exact(dict.fromkeys((1, 2, 4), 1.0), num_negatives))
