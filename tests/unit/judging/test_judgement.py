# SPDX-License-Identifier: Apache-2.0
"""From scores to an order: the best first, without its equals."""

from __future__ import annotations

import pytest

from nemo_mcpo.judging.judgement import by_scores


@pytest.mark.parametrize(
    ("scores", "order", "win_rate", "ties"),
    [
        ([1.0, 3.0, 2.0], (1, 2, 0), 1.0, 0),
        ([3.0, 1.0, 3.0], (0, 1), 0.75, 1),
        ([2.0, 2.0], (0,), 0.5, 1),
        ([0.0, -1.0, -1.0, 5.0], (3, 0, 1, 2), 1.0, 0),
    ],
)
def test_orders(scores, order, win_rate, ties):
    judgement = by_scores(scores)
    assert judgement.order == order
    assert judgement.win_rate == win_rate
    assert judgement.ties == ties
    assert judgement.scores == tuple(scores)
    assert judgement.comparisons == judgement.failures == 0
