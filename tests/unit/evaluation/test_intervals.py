# SPDX-License-Identifier: Apache-2.0
import math
import random

import pytest

from nemo_mcpo.evaluation.intervals import Interval, Z, clustered_rate_interval, rate_interval


@pytest.mark.parametrize(
    ("successes", "number", "low", "high"),
    [  # Newcombe 1998, table I, method 3 (Wilson without continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(successes, number, low, high):
    interval = rate_interval(successes, number)
    assert interval.mean == successes / number
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_the_ends_solve_the_score_equation():
    interval = rate_interval(37, 120)
    for end in (interval.low, interval.high):
        assert abs(37 / 120 - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / 120), rel=1e-5)


def test_all_right_is_not_certain():
    assert rate_interval(50, 50) == Interval(1.0, pytest.approx(1 / (1 + Z**2 / 50), abs=1e-6), 1.0)


def test_one_outcome_a_prompt_is_almost_wilson():
    generator = random.Random(1)
    outcomes = [[generator.random() < 0.7] for _ in range(400)]
    clustered = clustered_rate_interval(outcomes)
    plain = rate_interval(sum(own[0] for own in outcomes), 400)
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high), abs=1e-4)  # n - 1 instead of n


def test_copies_of_an_outcome_tell_nothing_new():
    generator = random.Random(2)
    once = [[generator.random() < 0.6] for _ in range(300)]
    six_times = [own * 6 for own in once]
    assert clustered_rate_interval(six_times) == clustered_rate_interval(once)


def test_independent_outcomes_count_each():
    generator = random.Random(3)
    outcomes = [[generator.random() < 0.6 for _ in range(6)] for _ in range(2000)]
    clustered = clustered_rate_interval(outcomes)
    plain = rate_interval(sum(map(sum, outcomes)), 12_000)
    assert clustered.high - clustered.low == pytest.approx(plain.high - plain.low, rel=0.05)


def test_coverage_with_related_outcomes():
    """A prompt's own rate is 0.3 or 0.9: the clustered interval holds the true 0.6 in about 95 of 100 trials."""
    generator, covered = random.Random(4), 0
    for _ in range(400):
        rates = [generator.choice((0.3, 0.9)) for _ in range(80)]
        interval = clustered_rate_interval([[generator.random() < rate for _ in range(5)] for rate in rates])
        covered += interval.low <= 0.6 <= interval.high
    assert 0.92 <= covered / 400 <= 0.98


def test_every_outcome_right_counts_prompts():
    assert clustered_rate_interval([[True] * 6] * 50) == rate_interval(50, 50)


def test_a_prompt_without_outcomes_is_left_out():
    assert clustered_rate_interval([[True, False], [], [True]]) == clustered_rate_interval([[True, False], [True]])
