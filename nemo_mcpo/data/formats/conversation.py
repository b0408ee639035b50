# SPDX-License-Identifier: Apache-2.0
"""Prompts as conversations, and the chosen/rejected pairs in which many public datasets come."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nemo_mcpo.data.formats.messages import parse_message
from nemo_mcpo.data.formats.records import Answer, BadRecordError, checked_text
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Message

Turns = tuple[Message, ...]

PROMPT_COLUMNS = ("prompt", "question", "instruction", "conversations", "messages")
"""Where a prompt may stand; the first that a row has counts."""

_SENTENCE = 20  # characters: an answer may well begin with a shorter prompt
_ASKS = {"user", "tool"}
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def parse_prompt(value: Any) -> Turns:
    """A prompt given as text (one user turn) or as a list of messages that leaves the model something to answer."""
    return checked_prompt(prompt_turns(value))


def prompt_turns(value: Any) -> Turns:
    """The turns of a prompt: a text is one user turn, or a dialogue that ends where the assistant is to speak."""
    if isinstance(value, str):
        if is_dialogue(value) and value.rstrip().endswith("Assistant:"):
            return dialogue_turns(value)[:-1]
        return (Message("user", checked_text(value)),)
    if not isinstance(value, list):
        raise BadRecordError("not the format's structure", f"prompt: {type(value).__name__}")
    return tuple(parse_message(turn) for turn in value)


def is_dialogue(value: object) -> bool:
    """Whether a text is a dialogue in ``Human:`` and ``Assistant:`` turns."""
    return isinstance(value, str) and _TURN.match(value) is not None


def dialogue_turns(text: str) -> tuple[Message, ...]:
    """All turns of a dialogue, at least one."""
    opening, *parts = _TURN.split(checked_text(text))
    if not opening.strip() and not parts:
        raise BadRecordError("empty prompt")
    if opening.strip():
        raise BadRecordError("prompt is not in Human/Assistant turns", repr(opening[:40]))
    return tuple(Message(_ROLES[name], content.strip()) for name, content in zip(parts[::2], parts[1::2], strict=True))


def checked_prompt(turns: Turns) -> Turns:
    """Refuses a conversation that leaves the model nothing to answer."""
    if not turns:
        raise BadRecordError("empty prompt")
    if turns[-1].role not in _ASKS:
        raise BadRecordError("prompt does not end with a user turn", turns[-1].role)
    if not turns[-1].content and not turns[-1].extra:
        raise BadRecordError("empty prompt")
    return turns


def row_prompt(row: Row) -> Any:
    """The value of the column that holds a row's prompt; None where there is none."""
    return next((row[name] for name in PROMPT_COLUMNS if row.get(name) is not None), None)


def without_answer(turns: Turns) -> Turns:
    """A whole conversation up to its last answer."""
    return turns[:-1] if turns and turns[-1].role == "assistant" else turns


def pair_prompt(row: Row) -> Turns:
    """The prompt that ``chosen`` and ``rejected`` share: in them, beside them, or begun beside them."""
    context, other = (turns[:-1] for turns in _sides(row))
    if context != other:
        raise BadRecordError("chosen and rejected have different prompts")
    given = row_prompt(row)
    if given is None or (not given and context):
        return checked_prompt(context)
    beside = prompt_turns(given)
    if not context:
        _refuse_repeated(row, beside[-1].content)
    if not context or context[: len(beside)] == beside:
        return checked_prompt(context or beside)
    if context[0].role in ("assistant", "tool"):  # a call and its result, which both answers begin with
        return checked_prompt(beside + context)
    if beside[-len(context) :] == context:  # such as a system turn that only the prompt has
        return checked_prompt(beside)
    if not all(turn in context for turn in beside):
        raise BadRecordError("the prompt is not the one of chosen and rejected", beside[-1].content[:80])
    return checked_prompt(context)


def _refuse_repeated(row: Row, prompt: str) -> None:
    """Refuses a pair of texts that both begin with their prompt: the model would learn to say it again."""
    answers = [turns[-1].content for turns in _sides(row)]
    if len(prompt) >= _SENTENCE and all(answer.startswith(prompt) for answer in answers):
        raise BadRecordError("chosen and rejected repeat the prompt", prompt[:80])


def pair_answers(row: Row) -> list[Answer]:
    """``chosen`` and ``rejected``: two texts, two answer messages, or two whole conversations with the same prompt."""
    scores = [row.get("score_chosen"), row.get("score_rejected")]
    return [answer_of(turns[-1], score, listed=True) for turns, score in zip(_sides(row), scores, strict=True)]


def answer_of(turn: Message, score: Any = None, *, listed: bool = False) -> Answer:
    """An assistant turn as an answer."""
    return Answer(turn.content, score=score, listed=listed, extra=turn.extra)


def _sides(row: Row) -> Sequence[Turns]:
    return [_side(row.get(name), name) for name in ("chosen", "rejected")]


def _side(value: Any, name: str) -> Turns:
    """The turns of ``chosen`` or ``rejected``, the answer last."""
    if isinstance(value, str):
        whole = is_dialogue(value) and value.lstrip().startswith("Human:")
        turns = dialogue_turns(value) if whole else (Message("assistant", checked_text(value)),)
    elif isinstance(value, list | dict):
        turns = tuple(parse_message(turn) for turn in (value if isinstance(value, list) else [value]))
    else:
        raise BadRecordError("not the format's structure", f"{name}: {type(value).__name__}")
    if not turns or turns[-1].role != "assistant":
        raise BadRecordError("chosen or rejected does not end with an assistant turn")
    return turns
