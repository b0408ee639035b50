# SPDX-License-Identifier: Apache-2.0
"""Prompts as conversations, and the chosen/rejected pairs of many public datasets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nemo_mcpo.data.formats.messages import parse_message
from nemo_mcpo.data.formats.records import BadRecordError, RawResponse, checked_text
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Message

Turns = tuple[Message, ...]

PROMPT_COLUMNS = ("prompt", "question", "instruction", "conversations", "messages")
"""Columns that may hold the prompt; the first one present in a row is used."""

_SENTENCE = 20  # characters: a response may legitimately begin with a shorter prompt
_ASKS = {"user", "tool"}
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def parse_prompt(value: Any) -> Turns:
    """Return the checked turns of a prompt that is given as text or as a list of messages."""
    return checked_prompt(prompt_turns(value))


def prompt_turns(value: Any) -> Turns:
    """Return the turns of a prompt; a text is one user turn, or a dialogue that ends with ``Assistant:``."""
    if isinstance(value, str):
        if is_dialogue(value) and value.rstrip().endswith("Assistant:"):
            return dialogue_turns(value)[:-1]
        return (Message("user", checked_text(value)),)
    if not isinstance(value, list):
        raise BadRecordError("does not match the format's structure", f"prompt: {type(value).__name__}")
    return tuple(parse_message(turn) for turn in value)


def is_dialogue(value: object) -> bool:
    """Return whether a text is a dialogue in ``Human:`` and ``Assistant:`` turns."""
    return isinstance(value, str) and _TURN.match(value) is not None


def dialogue_turns(text: str) -> tuple[Message, ...]:
    """Return all turns of a dialogue, at least one."""
    opening, *parts = _TURN.split(checked_text(text))
    if not opening.strip() and not parts:
        raise BadRecordError("empty prompt")
    if opening.strip():
        raise BadRecordError("prompt is not in Human/Assistant turns", repr(opening[:40]))
    return tuple(Message(_ROLES[name], content.strip()) for name, content in zip(parts[::2], parts[1::2], strict=True))


def checked_prompt(turns: Turns) -> Turns:
    """Return the turns of a prompt; raise BadRecordError if the last one is not a user's or a tool's, or is empty."""
    if not turns:
        raise BadRecordError("empty prompt")
    if turns[-1].role not in _ASKS:
        raise BadRecordError("prompt does not end with a user turn", turns[-1].role)
    if not turns[-1].content and not turns[-1].extra:
        raise BadRecordError("empty prompt")
    return turns


def row_prompt(row: Row) -> Any:
    """Return the value of the column that holds a row's prompt, or None."""
    return next((row[name] for name in PROMPT_COLUMNS if row.get(name) is not None), None)


def without_response(turns: Turns) -> Turns:
    """Return a conversation without its final assistant turn, if it ends with one."""
    return turns[:-1] if turns and turns[-1].role == "assistant" else turns


def last_response(turns: Turns) -> list[RawResponse]:
    """Return the final assistant turn of a conversation as its only response, if it ends with one."""
    return [response_of(turn) for turn in turns[-1:] if turn.role == "assistant"]


def pair_prompt(row: Row) -> Turns:
    """Return the prompt of ``chosen`` and ``rejected``: their shared turns, a prompt column, or both together."""
    context = shared_turns(_sides(row))
    given = row_prompt(row)
    if given is None or (not given and context):
        return checked_prompt(context)
    beside = prompt_turns(given)
    if not context:
        _refuse_repeated(row, beside[-1].content)
    if not context or context[: len(beside)] == beside:
        return checked_prompt(context or beside)
    if context[0].role in ("assistant", "tool"):  # both responses begin with the same call and its result
        return checked_prompt(beside + context)
    if beside[-len(context) :] == context:  # the prompt column has more, such as a system turn
        return checked_prompt(beside)
    if not all(turn in context for turn in beside):
        raise BadRecordError("the prompt differs from that of chosen and rejected", beside[-1].content[:80])
    return checked_prompt(context)


def shared_turns(sides: Sequence[Turns]) -> Turns:
    """Return the turns before the responses of ``chosen`` and ``rejected``; raise BadRecordError if they differ."""
    chosen, rejected = (turns[:-1] for turns in sides)
    if chosen != rejected:
        raise BadRecordError("chosen and rejected have different prompts")
    return chosen


def _refuse_repeated(row: Row, prompt: str) -> None:
    """Raise BadRecordError if both texts begin with the prompt: the model would learn to repeat it."""
    responses = [turns[-1].content for turns in _sides(row)]
    if len(prompt) >= _SENTENCE and all(response.startswith(prompt) for response in responses):
        raise BadRecordError("chosen and rejected repeat the prompt", prompt[:80])


def pair_responses(row: Row) -> list[RawResponse]:
    """Return ``chosen`` and ``rejected``: two texts, two assistant turns, or two conversations with one prompt."""
    scores = [row.get("score_chosen"), row.get("score_rejected")]
    return [response_of(turns[-1], score, listed=True) for turns, score in zip(_sides(row), scores, strict=True)]


def response_of(turn: Message, score: Any = None, *, listed: bool = False) -> RawResponse:
    """Return an assistant turn as a response."""
    return RawResponse(turn.content, score=score, listed=listed, extra=turn.extra)


def _sides(row: Row) -> Sequence[Turns]:
    return [_side(row.get(name), name) for name in ("chosen", "rejected")]


def _side(value: Any, name: str) -> Turns:
    """Return the turns of ``chosen`` or ``rejected``, the response last."""
    if isinstance(value, str):
        whole = is_dialogue(value) and value.lstrip().startswith("Human:")
        turns = dialogue_turns(value) if whole else (Message("assistant", checked_text(value)),)
    elif isinstance(value, list | dict):
        turns = tuple(parse_message(turn) for turn in (value if isinstance(value, list) else [value]))
    else:
        raise BadRecordError("does not match the format's structure", f"{name}: {type(value).__name__}")
    if not turns or turns[-1].role != "assistant":
        raise BadRecordError("chosen or rejected does not end with an assistant turn")
    return turns
