# SPDX-License-Identifier: Apache-2.0
"""What all formats share: a row's answers in their order, or the reason why the row is dropped.

A *record* that cannot be used is dropped, counted and listed, so that one bad line does not end a long job;
a *file* that cannot be used (missing, not JSON, other columns) raises DataError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Response


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that was not used: where it is, why (one of few reasons, counted), and what exactly was found."""

    source: str
    reason: str
    detail: str = ""


class BadRecordError(Exception):
    """One record cannot be used; the reader reports it as Dropped and goes on."""

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = str(detail)[:200]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as the file gives it; ``rank`` 1 is best; ``listed``: the file's order counts, not the scores.

    ``extra`` is what an assistant turn holds beside its text, as in ``Message``.
    """

    content: str | tuple[int, ...]
    rank: Any = None
    score: Any = None
    listed: bool = False
    extra: str = ""


def order_answers(
    answers: Sequence[Answer], drop_ranks: Sequence[int], max_candidates: int | None, min_answers: int = 2
) -> tuple[Response, ...]:
    """Best first: by rank, else by score, else as listed; ``drop_ranks`` applies where the file has ranks."""
    _check_number(len(answers), min_answers, "")
    scores = [None if answer.score is None else finite_score(answer.score) for answer in answers]
    order = list(range(len(answers)))
    if any(answer.rank is not None for answer in answers):
        ranks = [_rank(answer.rank) for answer in answers]
        if len(set(ranks)) < len(ranks):
            raise BadRecordError("duplicate ranks", sorted(ranks))
        order = sorted((i for i in order if ranks[i] not in drop_ranks), key=ranks.__getitem__)
        _check_number(len(order), min_answers, f"after dropping ranks {list(drop_ranks)}")
    elif not answers[0].listed and (known := [score for score in scores if score is not None]):
        if len(known) < len(scores):
            raise BadRecordError("score missing for some answers", scores)
        if len(set(known)) == 1 < len(known):
            raise BadRecordError("all scores equal", known[0])
        order.sort(key=lambda i: -known[i])  # stable: equal scores stay in the file's order
    if max_candidates is not None:
        order = order[: max_candidates + 1]
    return tuple(_response(answers[i], scores[i]) for i in order)


def finite_score(score: Any) -> float:
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise BadRecordError("score is not a finite number", repr(score))
    return float(score)


def require(row: Row, name: str, kind: type | tuple[type, ...]) -> Any:
    """``row[name]``, which must be of ``kind``."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        raise BadRecordError("not the format's structure", f"{name}: {type(value).__name__}")
    return value


def checked_text(text: str) -> str:
    """``text`` without surrounding white space; refuses lone surrogates, which no tokenizer can encode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecordError("text is not valid Unicode", error.reason) from error
    return text.strip()


def _check_number(number: int, least: int, detail: str) -> None:
    if number < least:
        raise BadRecordError("one answer" if number else "no answers", detail)


def _rank(rank: Any) -> int:
    if isinstance(rank, bool) or not isinstance(rank, int | float) or rank != rank // 1 or rank < 1:
        raise BadRecordError("rank is not a whole number from 1", repr(rank))
    return int(rank)


def _response(answer: Answer, score: float | None) -> Response:
    content = checked_text(answer.content) if isinstance(answer.content, str) else answer.content
    if not content and "tool_calls" not in answer.extra:
        raise BadRecordError("empty answer")
    if isinstance(content, str):
        return Response(text=content, score=score, extra=answer.extra)
    return Response(tokens=content, score=score)
