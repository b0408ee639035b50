# SPDX-License-Identifier: Apache-2.0
"""Prompts as conversations, and the chosen/rejected pairs in which many public datasets come."""

from __future__ import annotations

from typing import Any

from nemo_mcpo.data.formats.records import Answer, BadRecordError, checked_text, require
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Message

_ROLES = ("system", "user", "assistant")


def parse_prompt(value: Any) -> tuple[Message, ...]:
    """A prompt given as text (one user turn) or as a list of messages that ends with a user turn."""
    if isinstance(value, str):
        return checked_prompt((Message("user", checked_text(value)),))
    if not isinstance(value, list):
        raise BadRecordError("not the format's structure", f"prompt: {type(value).__name__}")
    return checked_prompt(tuple(_message(turn) for turn in value))


def checked_prompt(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Refuses a conversation that leaves the model nothing to answer."""
    if not turns:
        raise BadRecordError("empty prompt")
    if turns[-1].role != "user":
        raise BadRecordError("prompt does not end with a user turn", turns[-1].role)
    if not turns[-1].content.strip():
        raise BadRecordError("empty prompt")
    return turns


def pair_prompt(row: Row) -> tuple[Message, ...]:
    """The prompt that ``chosen`` and ``rejected`` share, in them or beside them."""
    (context, _), (other, _) = _sides(row)
    if context != other:
        raise BadRecordError("chosen and rejected have different prompts")
    return checked_prompt(context) if context else parse_prompt(row.get("prompt"))


def pair_answers(row: Row) -> list[Answer]:
    """``chosen`` and ``rejected``: two texts, two answer messages, or two whole conversations with the same prompt."""
    scores = [row.get("score_chosen"), row.get("score_rejected")]
    texts = [text for _, text in _sides(row)]
    return [Answer(text, score=score, listed=True) for text, score in zip(texts, scores, strict=True)]


def _sides(row: Row) -> list[tuple[tuple[Message, ...], str]]:
    return [_split_answer(require(row, name, (str, list))) for name in ("chosen", "rejected")]


def _split_answer(value: str | list[Any]) -> tuple[tuple[Message, ...], str]:
    if isinstance(value, str):
        return (), value
    turns = tuple(_message(turn) for turn in value)
    if not turns or turns[-1].role != "assistant":
        raise BadRecordError("chosen or rejected does not end with an assistant turn")
    return turns[:-1], turns[-1].content


def _message(turn: Any) -> Message:
    role, content = require(turn, "role", str), require(turn, "content", str)
    if role not in _ROLES:
        raise BadRecordError("unknown role", role)
    checked_text(content)
    return Message(role, content)
