# SPDX-License-Identifier: Apache-2.0
"""Exact probabilities of draws by enumeration, and a chi-square test of observed draws against them."""

from __future__ import annotations

import itertools
from collections import Counter

import torch

NUM_DRAWS = 100_000

Draw = tuple[int, ...]


def plackett_luce(weights: dict[int, float], num_negatives: int) -> dict[Draw, float]:
    """Probability of every ordered draw without replacement: each pick is by weight among the remaining columns."""
    probabilities = {}
    for draw in itertools.permutations(weights, num_negatives):
        left, probability = dict(weights), 1.0
        for column in draw:
            probability *= left[column] / sum(left.values())
            del left[column]
        probabilities[draw] = probability
    return probabilities


def independent(weights: dict[int, float], num_negatives: int) -> dict[Draw, float]:
    """Probability of every ordered draw with replacement."""
    total = sum(weights.values())
    return {
        draw: torch.tensor([weights[column] / total for column in draw], dtype=torch.float64).prod().item()
        for draw in itertools.product(weights, repeat=num_negatives)
    }


def assert_frequencies(columns_BM: torch.Tensor, probabilities: dict[Draw, float]) -> None:
    """Check the rows of ``columns_BM``: no draw is impossible, and the chi-square test's p-value is above 1e-3."""
    assert abs(sum(probabilities.values()) - 1) < 1e-12
    counts = Counter(map(tuple, columns_BM.tolist()))
    possible = {draw: probability for draw, probability in probabilities.items() if probability > 0}
    assert counts.keys() <= possible.keys(), f"impossible draws: {counts.keys() - possible.keys()}"
    num_draws = len(columns_BM)
    assert min(possible.values()) * num_draws > 5, "too few expected draws for a chi-square test"
    statistic = sum((counts[draw] - p * num_draws) ** 2 / (p * num_draws) for draw, p in possible.items())
    if len(possible) == 1:
        return
    half = torch.tensor([(len(possible) - 1) / 2, statistic / 2], dtype=torch.float64)
    p_value = torch.special.gammaincc(half[0], half[1]).item()
    assert p_value > 1e-3, f"p = {p_value:.2e}: observed {dict(counts)}, expected {probabilities}"


def repeat(row: list[float] | list[bool], num_draws: int = NUM_DRAWS) -> torch.Tensor:
    """The row repeated ``num_draws`` times."""
    return torch.tensor([row]).expand(num_draws, -1)
