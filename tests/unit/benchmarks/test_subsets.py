# SPDX-License-Identifier: Apache-2.0
"""The statistical price of scored candidates: closed forms, and the gradients that it weighs."""

from __future__ import annotations

import pytest
import torch

from benchmarks.subsets import inner_products, price, subset_kernel
from tests.support.small_gpt import trainable_model
from tests.support.trees import random_trees

ENERGIES = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)


def test_the_kernel_of_pairs_is_a_mean_of_logistic_functions():
    expected = [
        sum(torch.sigmoid(ENERGIES[one] - ENERGIES[other]).item() for other in range(4) if other != one) / 6
        for one in range(4)
    ]
    assert subset_kernel(ENERGIES, 2).tolist() == pytest.approx(expected, rel=1e-12)


def test_bias_and_variance_with_orthogonal_gradients():
    full, single = ENERGIES.softmax(0), torch.full((4,), 0.25, dtype=torch.float64)
    found = price(ENERGIES, 1, torch.eye(4, dtype=torch.float64))
    assert found["total_variation"] == pytest.approx((single - full).abs().sum().item() / 2)
    assert found["bias"] == pytest.approx(((single - full).norm() / full.norm()).item())
    assert found["variance"] == pytest.approx(0.75 / full.square().sum().item())


def test_all_candidates_have_no_bias():
    found = price(ENERGIES, 4, torch.eye(4, dtype=torch.float64))
    assert (found["total_variation"], found["bias"]) == (0.0, 0.0)


@pytest.mark.usefixtures("one_process")
def test_inner_products_are_those_of_the_gradients(llama_directory):
    """The gradient of a sum is the sum of gradients, so products with a repeated completion repeat."""
    model = trainable_model(llama_directory)
    [tree] = random_trees([4], seed=1)
    products = inner_products(model, tree.keep([0, 1, 2, 1]))
    assert torch.equal(products, products.T) and (products.diagonal() > 0).all()
    torch.testing.assert_close(products[0], products[2], rtol=1e-6, atol=0)
    torch.testing.assert_close(products[0, 0], products[0, 2], rtol=1e-6, atol=0)
