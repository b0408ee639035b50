# SPDX-License-Identifier: Apache-2.0
r"""95 % confidence intervals of a rate: Wilson's for independent outcomes, and one for outcomes that share prompts.

.. math:: \frac{p + z^2/2n \pm z \sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}, \qquad z = 1.96

Wilson 1927. Outcomes of the same prompt are correlated, so 5 of them carry less information than one from each of 5
prompts. For these, ``n`` is the effective sample size :math:`p(1-p)/\mathrm{Var}(p)`, with the variance between
prompts (Korn and Graubard 1998).

>>> rate_interval(8, 10)
Interval(mean=0.8, low=0.4901625, high=0.9433178)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z = 1.959964
"""Normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A rate (0 to 1) and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def rate_interval(successes: float, number: float) -> Interval:
    """Wilson's interval for ``successes`` in ``number`` independent outcomes; ``number`` must be positive."""
    rate = successes / number
    center = (rate + Z**2 / (2 * number)) / (1 + Z**2 / number)
    half = Z * math.sqrt(rate * (1 - rate) / number + Z**2 / (4 * number**2)) / (1 + Z**2 / number)
    return Interval(rate, round(max(center - half, 0.0), 7), round(min(center + half, 1.0), 7))


def clustered_rate_interval(outcomes: Sequence[Sequence[bool]]) -> Interval:
    """Interval for the rate over all outcomes, where ``outcomes[i]`` are those of prompt i (possibly none).

    The variance is that of a ratio of two sums over prompts. If it is zero (all outcomes equal), each prompt counts as
    one outcome; an outcome never counts as more than one.
    """
    clusters = [(sum(own), len(own)) for own in outcomes if own]
    number = sum(size for _, size in clusters)
    rate = sum(successes for successes, _ in clusters) / number
    residuals = sum((successes - rate * size) ** 2 for successes, size in clusters)
    if residuals == 0.0 or len(clusters) == 1:
        effective = float(len(clusters))
    else:
        variance = residuals * len(clusters) / (len(clusters) - 1) / number**2
        effective = min(rate * (1 - rate) / variance, number)
    return rate_interval(rate * effective, effective)
