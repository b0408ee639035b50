# SPDX-License-Identifier: Apache-2.0
"""A record as the text that the model will see: its prompt, and what follows it for each answer."""

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
    """What follows a prompt, up to the end of the turn.

    Attributes:
        text: of the answer.
        from_template: whether the chat template wrote it, special tokens among it.
    """

    text: str
    from_template: bool = False


@dataclass(frozen=True, slots=True)
class RenderedRecord:
    """The text of a record; answers in the record's order."""

    prompt: str
    answers: tuple[Continuation, ...]


def render_record(chat: ChatTokenizer, record: PreferenceRecord) -> RenderedRecord:
    """The text of a record.

    Raises:
        RefusedByTemplate: the template refuses the conversation, or would leave a part of it out.
    """
    turns = record.turns
    thinking = answers_think(chat, record)
    prompt = render(chat.tokenizer, turns, record.inputs, add_generation_prompt=True, thinking=thinking)
    check_shown(chat.tokenizer, turns, record.inputs, prompt, thinking=thinking)
    answers = [continuation(chat, record, prompt, response, thinking=thinking) for response in record.responses]
    return RenderedRecord(prompt, tuple(answers))


def check_thoughts(chat: ChatTokenizer, rendered: RenderedRecord) -> None:
    """Refuses answers whose thought is never closed, stands behind other text, or comes twice."""
    tags = chat.turn.tags
    for answer in rendered.answers if tags else ():
        if tags and not is_whole(tags, rendered.prompt, answer.text):
            what = "an answer's thought is not opened once and closed before the answer"
            raise RefusedByTemplate(what, f"{rendered.prompt[-20:]!r}, {answer.text[:120]!r}")


def answers_think(chat: ChatTokenizer, record: PreferenceRecord) -> bool:
    """Whether any answer comes with a thought: then the prompt is one that asks for thoughts."""
    return any(has_thought(chat.turn.tags, response.text or "", _extra(response)) for response in record.responses)


def continuation(
    chat: ChatTokenizer, record: PreferenceRecord, prompt: str, response: Response, *, thinking: bool
) -> Continuation:
    """What follows ``prompt`` for one answer."""
    text, extra = response.text or "", _extra(response)
    if extra:
        return _structured(chat, record, prompt, response, thinking)
    tags = chat.turn.tags
    if tags is None:
        return Continuation(text)
    if is_open(tags, prompt):
        return Continuation(continued(tags, prompt, text, chat.turn.empty_thought))
    if tags.end in text and tags.begin not in text:  # as servers return it whose prompt has opened the thought
        return Continuation(f"{tags.begin}\n{text}")
    if not thinking or has_thought(tags, text, {}):
        return Continuation(text)
    # Beside an answer with a thought, one without has the empty thought that its own prompt would have had.
    own = render(chat.tokenizer, record.turns, record.inputs, add_generation_prompt=True)
    return Continuation((own.removeprefix(prompt) if own.startswith(prompt) else closed(tags)) + text)


def encode_continuations(chat: ChatTokenizer, answers: Sequence[Continuation]) -> list[list[int]]:
    """Token ids of answers with their end-of-turn token, on all cores."""
    plain = iter(encode_answers(chat, [answer.text for answer in answers if not answer.from_template]))
    written = [answer.text for answer in answers if answer.from_template]
    ids = iter(encode_texts(chat.tokenizer, written, special_text=False) if written else ())
    return [_ended(chat, next(ids)) if answer.from_template else next(plain) for answer in answers]


def _structured(
    chat: ChatTokenizer, record: PreferenceRecord, prompt: str, response: Response, thinking: bool
) -> Continuation:
    """An answer that is more than text, such as a tool call, as the template itself writes it after the prompt."""
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
        what = "the chat template does not continue the prompt with this answer"
        raise RefusedByTemplate(what, f"keys {sorted(extra)}")
    _refuse_special_text(chat, response)
    return Continuation(whole.removeprefix(prompt).rstrip(), from_template=True)


def _refuse_special_text(chat: ChatTokenizer, response: Response) -> None:
    """Where the template writes special tokens, those that the answer spells would count as such."""
    own = f"{response.text}{response.extra}"
    spelled = [token for token in special_tokens(chat.tokenizer) if token in own]
    if spelled:
        raise RefusedByTemplate("an answer with further keys spells a special token", spelled[0])


def _ended(chat: ChatTokenizer, ids: list[int]) -> list[int]:
    """With the end of the turn, or with the special token that the template ends a tool call with."""
    ends = ids and ids[-1] in special_tokens(chat.tokenizer).values()
    return ids if ends else [*ids, chat.end_of_turn]


def _extra(response: Response) -> dict[str, object]:
    return json.loads(response.extra) if response.extra else {}
