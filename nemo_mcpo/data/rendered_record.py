# SPDX-License-Identifier: Apache-2.0
"""A record as the text that the model sees: its prompt, and the continuation for each response."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_mcpo.data.chat_template import RefusedByTemplate, check_shown, render, template_text
from nemo_mcpo.data.encoding import encode_texts, special_tokens
from nemo_mcpo.data.thoughts import (
    THOUGHT_KEYS,
    closed,
    continued,
    has_thought,
    inlined,
    is_open,
    is_whole,
    reads_thoughts,
)
from nemo_mcpo.data.tokenization import ChatTokenizer, encode_answers
from nemo_mcpo.records import Message, PreferenceRecord, Response


@dataclass(frozen=True, slots=True)
class Continuation:
    """The text that follows a prompt, up to the end of the turn.

    Attributes:
        text: the response, with its thought if it has one.
        from_template: whether the chat template wrote it, so that it may contain special tokens.
    """

    text: str
    from_template: bool = False


@dataclass(frozen=True, slots=True)
class RenderedRecord:
    """The text of a record; continuations are in the order of its responses."""

    prompt: str
    continuations: tuple[Continuation, ...]


def render_record(chat: ChatTokenizer, record: PreferenceRecord) -> RenderedRecord:
    """Return the text of a record.

    Raises:
        RefusedByTemplate: the template refuses the conversation, or would omit a part of it.
    """
    turns = record.turns
    thinking = responses_think(chat, record)
    prompt = render(chat.tokenizer, turns, record.inputs, add_generation_prompt=True, thinking=thinking)
    check_shown(chat.tokenizer, turns, record.inputs, prompt, thinking=thinking)
    texts = [continuation(chat, record, prompt, response, thinking=thinking) for response in record.responses]
    return RenderedRecord(prompt, tuple(texts))


def check_thoughts(chat: ChatTokenizer, rendered: RenderedRecord) -> None:
    """Raise RefusedByTemplate if a thought is never closed, follows other text, or occurs twice."""
    tags = chat.turn.tags
    for one in rendered.continuations if tags else ():
        if tags and not is_whole(tags, rendered.prompt, one.text):
            what = "a thought is not opened once and closed before the text"
            raise RefusedByTemplate(what, f"{rendered.prompt[-20:]!r}, {one.text[:120]!r}")


def responses_think(chat: ChatTokenizer, record: PreferenceRecord) -> bool:
    """Return whether any response has a thought; the prompt is then rendered for thinking."""
    return any(has_thought(chat.turn.tags, response.text or "", _extra(response)) for response in record.responses)


def continuation(
    chat: ChatTokenizer, record: PreferenceRecord, prompt: str, response: Response, *, thinking: bool
) -> Continuation:
    """Return the text that follows ``prompt`` for one response."""
    text, extra = response.text or "", _extra(response)
    if extra:
        return _structured(chat, record, prompt, response, thinking)
    tags = chat.turn.tags
    if tags is None:
        return Continuation(text)
    if is_open(tags, prompt):
        return Continuation(continued(tags, prompt, text, chat.turn.empty_thought))
    # Servers return a thought without its opening tag if their prompt has opened it.
    if tags.end in text and tags.begin not in text:
        return Continuation(f"{tags.begin}\n{text}")
    if not thinking or has_thought(tags, text, {}):
        return Continuation(text)
    # Next to a response with a thought, one without gets the empty thought that its own prompt would contain.
    own = render(chat.tokenizer, record.turns, record.inputs, add_generation_prompt=True)
    return Continuation((own.removeprefix(prompt) if own.startswith(prompt) else closed(tags)) + text)


def encode_continuations(chat: ChatTokenizer, continuations: Sequence[Continuation]) -> list[list[int]]:
    """Return the token ids of continuations, each with its end-of-turn token; encodes on all cores."""
    plain = iter(encode_answers(chat, [one.text for one in continuations if not one.from_template]))
    written = [one.text for one in continuations if one.from_template]
    ids = iter(encode_texts(chat.tokenizer, written, special_text=False) if written else ())
    return [_ended(chat, next(ids)) if one.from_template else next(plain) for one in continuations]


def _structured(
    chat: ChatTokenizer, record: PreferenceRecord, prompt: str, response: Response, thinking: bool
) -> Continuation:
    """Return a response that is more than text, such as a tool call, as the template writes it after the prompt."""
    turns, extra = record.turns, _extra(response)
    thought = next((extra[key] for key in THOUGHT_KEYS if extra.get(key)), None)
    tags = chat.turn.tags
    if thought is not None and not isinstance(thought, str):
        raise RefusedByTemplate("a thought is not text", type(thought).__name__)
    if thought and extra.keys() <= set(THOUGHT_KEYS) and tags and not reads_thoughts(template_text(chat.tokenizer)):
        text = inlined(tags, response.text or "", thought)
        return Continuation(continued(tags, prompt, text, None) if is_open(tags, prompt) else text)
    whole_turns = [*turns, Message("assistant", response.text or "", response.extra)]
    whole = render(chat.tokenizer, whole_turns, record.inputs, add_generation_prompt=False, thinking=thinking)
    check_shown(chat.tokenizer, whole_turns, record.inputs, whole, thinking=thinking)
    if not whole.startswith(prompt):
        what = "the chat template does not continue the prompt with this response"
        raise RefusedByTemplate(what, f"keys {sorted(extra)}")
    own = f"{response.text}{response.extra}"
    # A special token spelled in the response would become one in the template's text.
    if spelled := [token for token in special_tokens(chat.tokenizer) if token in own]:
        raise RefusedByTemplate("a response with further keys spells a special token", spelled[0])
    return Continuation(whole.removeprefix(prompt).rstrip(), from_template=True)


def _ended(chat: ChatTokenizer, ids: list[int]) -> list[int]:
    """Return ids that end with the end-of-turn token, or with the special token by which the template ends a call."""
    ends = ids and ids[-1] in special_tokens(chat.tokenizer).values()
    return ids if ends else [*ids, chat.end_of_turn]


def _extra(response: Response) -> dict[str, object]:
    return json.loads(response.extra) if response.extra else {}
