# SPDX-License-Identifier: Apache-2.0
"""A rule of a user's own."""

from __future__ import annotations


def prefers_long(conversation: tuple, answer: str) -> float:
    """Longer is better."""
    return float(len(answer))
