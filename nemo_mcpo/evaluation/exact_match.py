# SPDX-License-Identifier: Apache-2.0
"""Exact match: the share of prompts whose greedy answer a rule accepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from nemo_mcpo.evaluation.intervals import Interval, rate_interval

Problem = TypeVar("Problem")


def exact_match(
    problems: Sequence[Problem], answers: Sequence[str], is_right: Callable[[Problem, str], bool]
) -> Interval:
    """The rate with Wilson's 95 % interval; one answer a problem."""
    right = sum(is_right(problem, answer) for problem, answer in zip(problems, answers, strict=True))
    return rate_interval(right, len(problems))
