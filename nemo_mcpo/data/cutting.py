# SPDX-License-Identifier: Apache-2.0
"""Cutting prompts and responses to the length limits.

    <bos> system │ user, assistant │ user: the beginning and the end │ <assistant>     more than max_prompt_length
    <bos> system │                   user:                   the end │ <assistant>     what is kept

The oldest turns are removed first, then the beginning of the first remaining text. The template's own text and the
system turn are never cut. A response loses its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nemo_mcpo.data.chat_template import RefusedByTemplate, render
from nemo_mcpo.data.encoding import encode_texts
from nemo_mcpo.data.rendered_record import responses_think
from nemo_mcpo.data.tokenization import ChatTokenizer
from nemo_mcpo.records import Message, PreferenceRecord

_SYSTEM = ("system", "developer")
_TRIES = 6


@dataclass(frozen=True, slots=True)
class CutSequences:
    """The tokens of one prompt and its completions within the limits, and how many tokens each has lost.

    Attributes:
        prompt: int32 ``[P]``.
        completions: K arrays of int32.
        lost: tokens removed from the prompt and from each completion, 1 + K numbers.
    """

    prompt: np.ndarray
    completions: tuple[np.ndarray, ...]
    lost: tuple[int, ...]


def cut_sequences(
    prompt: Sequence[int] | np.ndarray,
    completions: Sequence[Sequence[int] | np.ndarray],
    max_prompt_length: int,
    max_length: int,
) -> CutSequences:
    """Keep the end of a prompt and the beginning of each completion.

    >>> cut_sequences([1, 2, 3], [[7, 8, 9, 0], [5, 0]], max_prompt_length=2, max_length=5).completions
    (array([7, 8, 9], dtype=int32), array([5, 0], dtype=int32))
    """
    kept = prompt[-max_prompt_length:]
    room = max_length - len(kept)
    return CutSequences(
        prompt=np.asarray(kept, dtype=np.int32),
        completions=tuple(np.asarray(completion[:room], dtype=np.int32) for completion in completions),
        lost=(len(prompt) - len(kept), *(max(0, len(completion) - room) for completion in completions)),
    )


def cut_prompt(chat: ChatTokenizer, record: PreferenceRecord, limit: int) -> list[int]:
    """Return the tokens of a prompt that is too long, cut to ``limit`` tokens.

    Raises:
        RefusedByTemplate: the parts that are never cut (system turn, inputs, the template's own text) leave no room.
    """
    thinking = responses_think(chat, record)

    def encoded(turns: Sequence[Message]) -> list[int]:
        text = render(chat.tokenizer, turns, record.inputs, add_generation_prompt=True, thinking=thinking)
        return encode_texts(chat.tokenizer, [text], special_text=False)[0]

    turns = record.turns
    for kept in _without_oldest(turns):
        ids = encoded(kept)
        if len(ids) <= limit:
            return ids
    place = next((number for number, turn in enumerate(kept) if turn.role not in _SYSTEM), None)
    if place is None:
        raise RefusedByTemplate("the prompt does not fit in max_prompt_length", f"{len(ids)} tokens, limit {limit}")
    text, excess = kept[place].content, len(ids) - limit
    for _ in range(_TRIES):
        text = _without_beginning(chat, text, excess)
        if not text:
            break
        ids = encoded([*kept[:place], replace(kept[place], content=text), *kept[place + 1 :]])
        if len(ids) <= limit:
            return ids
        excess = len(ids) - limit
    raise RefusedByTemplate("no text of the last turn fits in max_prompt_length", f"{len(ids)} tokens, limit {limit}")


def _without_oldest(turns: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield the system turns with the conversation from each user turn on, the longest first."""
    system = [turn for turn in turns if turn.role in _SYSTEM]
    others = [turn for turn in turns if turn.role not in _SYSTEM]
    starts = [number for number, turn in enumerate(others) if turn.role == "user"] or [0]
    for start in starts:
        yield [*system, *others[start:]]


def _without_beginning(chat: ChatTokenizer, text: str, num_tokens: int) -> str:
    """Return a text without at least its first ``num_tokens`` tokens, and without splitting a character."""
    offsets = chat.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets
    if num_tokens >= len(offsets):
        return ""
    return text[offsets[num_tokens - 1][1] :].lstrip()
