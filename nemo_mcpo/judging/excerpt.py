# SPDX-License-Identifier: Apache-2.0
"""Shortens a conversation and its answers to fit a judge's context window.

The oldest turns are dropped first; system turns and the last turn always stay. If that is not enough, the middle of
each remaining text is cut to a common limit, the largest with which all texts fit. So answers are cut alike: an answer
shorter than the limit stays whole, however long the other one is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

CountTokens = Callable[[str], int]

MARK_TOKENS = 32
"""Upper bound on the tokens of a boundary, or of a note about omitted text, in any tokenizer."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A text without ``left_out`` characters between ``head`` and ``tail``."""

    head: str
    left_out: int = 0
    tail: str = ""

    def joined(self, note: str) -> str:
        """The text, with ``note`` (``{}`` is the number of omitted characters) on its own line where it was cut."""
        return f"{self.head}\n{note.format(self.left_out)}\n{self.tail}" if self.left_out else self.head


@dataclass(frozen=True, slots=True)
class Shown:
    """What a judge sees.

    Attributes:
        turns: pairs of role and text, oldest first.
        turns_left_out: number of dropped turns; they were the oldest ones, system turns excepted.
        answers: in the order of the question.
    """

    turns: tuple[tuple[str, Excerpt], ...]
    turns_left_out: int
    answers: tuple[Excerpt, ...]

    @property
    def is_cut(self) -> bool:
        """Whether anything is omitted."""
        texts = [*(text for _, text in self.turns), *self.answers]
        return self.turns_left_out > 0 or any(text.left_out for text in texts)


def fit(
    turns: Sequence[tuple[str, str]],
    answers: Sequence[str],
    room: int,
    count_tokens: CountTokens,
    *,
    one_by_one: bool = False,
) -> Shown:
    """Shorten turns and answers to fit into ``room`` tokens.

    Args:
        turns: pairs of role and text, oldest first; at least one.
        answers: at least one.
        room: maximum number of tokens of turns and answers together, including their boundaries.
        count_tokens: counts the tokens of a text.
        one_by_one: whether the judge sees the conversation with one answer at a time.
    """
    texts = [*(text for _, text in turns), *answers]
    bytes_at_a_time = len(texts) * MARK_TOKENS + sum(len(text.encode()) for text in texts)
    if bytes_at_a_time <= room:  # a token has at least one byte: no need to count
        return Shown(tuple((role, Excerpt(text)) for role, text in turns), 0, tuple(map(Excerpt, answers)))
    of_turns = [count_tokens(text) + MARK_TOKENS for _, text in turns]
    of_answers = [count_tokens(text) + MARK_TOKENS for text in answers]
    at_a_time = [max(of_answers)] if one_by_one else of_answers
    kept = list(range(len(turns)))
    droppable = [place for place in kept[:-1] if turns[place][0] != "system"]
    while droppable and sum(of_turns[place] for place in kept) + sum(at_a_time) > room:
        kept.remove(droppable.pop(0))
    limit = _common_limit([*(of_turns[place] for place in kept), *at_a_time], room) - MARK_TOKENS
    return Shown(
        tuple((turns[place][0], _shorten(turns[place][1], limit, count_tokens)) for place in kept),
        len(turns) - len(kept),
        tuple(_shorten(text, limit, count_tokens) for text in answers),
    )


def _common_limit(lengths: Sequence[int], room: int) -> int:
    """The largest limit such that the lengths, each capped at it, sum to at most ``room``."""
    rest, left = room, len(lengths)
    for length in sorted(lengths):
        if length * left > rest:
            return rest // left
        rest, left = rest - length, left - 1
    return max(lengths)


def _shorten(text: str, limit: int, count_tokens: CountTokens) -> Excerpt:
    """Keep equally long beginnings and ends of a text, at most ``limit`` tokens including the note between them."""
    if count_tokens(text) <= limit:
        return Excerpt(text)
    low, high = 0, len(text)  # characters kept: ``low`` fit, ``high`` do not
    while high - low > 1:
        middle = (low + high) // 2
        head, tail = _ends(text, middle)
        if count_tokens(head) + count_tokens(tail) + MARK_TOKENS <= limit:
            low = middle
        else:
            high = middle
    head, tail = _ends(text, low)
    return Excerpt(head, len(text) - low, tail)


def _ends(text: str, kept: int) -> tuple[str, str]:
    return text[: kept - kept // 2], text[len(text) - kept // 2 :]
