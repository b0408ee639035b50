# SPDX-License-Identifier: Apache-2.0
"""A user's own rule for judging answers; a module of its own, which commands import by name."""

from __future__ import annotations


def prefers_long(conversation: tuple, answer: str) -> float:
    """Score an answer by its length."""
    return float(len(answer))
