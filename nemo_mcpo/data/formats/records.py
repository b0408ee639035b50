# SPDX-License-Identifier: Apache-2.0
"""What all formats share: a row's responses, ordered best first, or the reason why the row is dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Response


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that was not used: its source, the reason (one of a few, which are counted), and what was found."""

    source: str
    reason: str
    detail: str = ""


class BadRecordError(Exception):
    """A record that cannot be used; the reader reports it as Dropped and continues."""

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = str(detail)[:200]


@dataclass(frozen=True, slots=True)
class RawResponse:
    """One response as the file gives it.

    Attributes:
        content: text, or token ids.
        rank: 1 is best; None if the file has none.
        score: higher is better; None if the file has none.
        listed: whether responses are ranked by their order in the file, regardless of scores.
        extra: what an assistant turn holds besides its text, as in ``Message``.
    """

    content: str | tuple[int, ...]
    rank: Any = None
    score: Any = None
    listed: bool = False
    extra: str = ""


def order_responses(
    raw: Sequence[RawResponse], drop_ranks: Sequence[int], max_candidates: int | None, min_answers: int = 2
) -> tuple[Response, ...]:
    """Return responses best first: by rank, else by score, else as listed; ``drop_ranks`` applies only to ranks."""
    _check_number(len(raw), min_answers, "")
    scores = [None if one.score is None else finite_score(one.score) for one in raw]
    order = list(range(len(raw)))
    if any(one.rank is not None for one in raw):
        ranks = [_rank(one.rank) for one in raw]
        if len(set(ranks)) < len(ranks):
            raise BadRecordError("duplicate ranks", sorted(ranks))
        order = sorted((i for i in order if ranks[i] not in drop_ranks), key=ranks.__getitem__)
        _check_number(len(order), min_answers, f"after dropping ranks {list(drop_ranks)}")
    elif not raw[0].listed and (known := [score for score in scores if score is not None]):
        if len(known) < len(scores):
            raise BadRecordError("score missing for some responses", scores)
        if len(set(known)) == 1 < len(known):
            raise BadRecordError("all scores equal", known[0])
        order.sort(key=lambda i: -known[i])  # stable: equal scores keep the file's order
    if max_candidates is not None:
        order = order[: max_candidates + 1]
    return tuple(_checked_response(raw[i], scores[i]) for i in order)


def finite_score(score: Any) -> float:
    """Return ``score`` as a float; raise BadRecordError if it is a bool, no number, or not finite as a float."""
    try:
        value = math.nan if isinstance(score, bool) or not isinstance(score, int | float) else float(score)
    except OverflowError:  # JSON integers have any number of digits
        value = math.inf
    if not math.isfinite(value):
        raise BadRecordError("score is not a finite number", repr(score))
    return value


def require(row: Row, name: str, kind: type | tuple[type, ...]) -> Any:
    """Return ``row[name]``; raise BadRecordError if it is not of type ``kind``."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        raise BadRecordError("does not match the format's structure", f"{name}: {type(value).__name__}")
    return value


def checked_text(text: str) -> str:
    """Return ``text`` without surrounding white space; raise BadRecordError for lone surrogates.

    No tokenizer can encode a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecordError("text is not valid Unicode", error.reason) from error
    return text.strip()


def _check_number(number: int, least: int, detail: str) -> None:
    if number < least:
        raise BadRecordError("only one response" if number else "no responses", detail)


def _rank(rank: Any) -> int:
    if isinstance(rank, bool) or not isinstance(rank, int | float) or rank != rank // 1 or rank < 1:
        raise BadRecordError("rank is not a positive integer", repr(rank))
    return int(rank)


def _checked_response(raw: RawResponse, score: float | None) -> Response:
    content = checked_text(raw.content) if isinstance(raw.content, str) else raw.content
    if not content and "tool_calls" not in raw.extra:
        raise BadRecordError("empty response")
    if isinstance(content, str):
        return Response(text=content, score=score, extra=raw.extra)
    return Response(tokens=content, score=score)
