# SPDX-License-Identifier: Apache-2.0
"""Renders conversations with a model's own chat template: reproducibly, and without losing any part of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from transformers import PreTrainedTokenizerFast

from nemo_mcpo.data.formats.records import BadRecordError
from nemo_mcpo.data.thoughts import THOUGHT_KEYS, reads_thoughts, renamed
from nemo_mcpo.records import Message

TODAY = datetime(2024, 7, 26)
"""The date that templates get as today's. Llama 3.2, Mistral Small, and SmolLM3 write it into every prompt, and the
same data must give the same tokens on any day."""

TEMPLATE_ARGUMENTS = {"date_string": TODAY.strftime("%d %b %Y"), "enable_thinking": False, "thinking": False}
"""Values that a template may read. If thinking is off, Qwen3 writes an empty thought before the response; DeepSeek
V3.1, which reads ``thinking``, closes one."""

RECIPE = {**TEMPLATE_ARGUMENTS, "strftime_now": TODAY.date().isoformat()}
"""Everything besides the template that determines how a conversation is rendered."""

_LINKS = {"tool_call_id", "name", "type"}
"""Keys of tool turns that templates may omit, because the order of the turns implies them."""
_OTHER = "Sentinel"
_WORD = 8  # characters


class RefusedByTemplate(BadRecordError):
    """A conversation cannot be rendered without losing a part of it: the reason, and what exactly was found."""


def render(
    tokenizer: PreTrainedTokenizerFast,
    turns: Sequence[Message],
    inputs: str = "",
    *,
    add_generation_prompt: bool,
    thinking: bool = False,
) -> str:
    """Return a conversation as text.

    Args:
        inputs: see ``PreferenceRecord``.
        add_generation_prompt: end the text where the response begins.
        thinking: whether the response has a thought; for templates with a thinking mode.

    Raises:
        RefusedByTemplate: the template raises any exception.
    """
    given = json.loads(inputs) if inputs else {}
    template = template_text(tokenizer, has_tools="tools" in given)
    messages = [renamed(template, turn.as_dict()) for turn in turns]
    values = {
        **TEMPLATE_ARGUMENTS,
        "enable_thinking": thinking,
        "thinking": thinking,
        "strftime_now": TODAY.strftime,
        **given,
    }
    arguments = _arguments(messages)

    def apply(form: Callable[[Any], Any]) -> str:
        turned = _with_arguments(messages, form)
        return tokenizer.apply_chat_template(
            turned, tokenize=False, add_generation_prompt=add_generation_prompt, **values
        )

    try:
        text = apply(_as_object)
        # A template that concatenates a call's arguments expects them as text: with objects it fails or writes a repr.
        if not any(repr(one) in text and repr(one) != _as_text(one) for one in arguments):
            return text
    except Exception as error:  # a template is a program, which can raise anything
        if not arguments:
            raise RefusedByTemplate("chat template refused the prompt", _one_line(error)) from error
    try:
        return apply(_as_text)
    except Exception as error:
        raise RefusedByTemplate("chat template refused the prompt", _one_line(error)) from error


def check_shown(
    tokenizer: PreTrainedTokenizerFast, turns: Sequence[Message], inputs: str, rendered: str, *, thinking: bool
) -> None:
    """Raise RefusedByTemplate if ``rendered`` omits a turn, a key of a turn, or an input such as tools.

    A part counts as shown if the text would be different without it. Templates that support thoughts may omit those of
    earlier turns.
    """
    for part, content, other_turns, other_inputs in _without_each_part(tokenizer, turns, inputs, rendered):
        asks = other_turns[-1].role != "assistant"
        try:
            text = render(tokenizer, other_turns, other_inputs, add_generation_prompt=asks, thinking=thinking)
        except RefusedByTemplate:
            continue  # a template that refuses what is left has read the part
        if text == rendered:
            raise RefusedByTemplate(f"the chat template omits {part}", content)


def _without_each_part(
    tokenizer: PreTrainedTokenizerFast, turns: Sequence[Message], inputs: str, rendered: str
) -> Iterator[tuple[str, str, Sequence[Message], str]]:
    """Yield the name and content of each part that must be shown, with the turns and the inputs without it."""
    every = "\n".join(turn.content for turn in turns)
    for number, turn in enumerate(turns):
        parts: list[tuple[str, object, Message]] = []
        # A short content proves nothing: the template's own text may contain the same word.
        is_there = len(turn.content) >= _WORD and rendered.count(turn.content) >= every.count(turn.content)
        if turn.content and not is_there:  # this only saves the cost of a second rendering
            parts.append(("a turn", turn.content, replace(turn, content=_OTHER)))
        for key in json.loads(turn.extra) if turn.extra else ():
            if not _may_be_omitted(tokenizer, turn, key, is_last=number == len(turns) - 1):
                parts += _without_key(turn, key)
        for part, value, other in parts:
            yield part, f"{turn.role}: {str(value)[:80]}", [*turns[:number], other, *turns[number + 1 :]], inputs
    given = json.loads(inputs) if inputs else {}
    template = template_text(tokenizer, has_tools="tools" in given)
    for name in given:
        if name in ("tools", "documents") or name not in template:
            yield name, str(given[name])[:80], turns, _without(given, name)


def template_text(tokenizer: PreTrainedTokenizerFast, *, has_tools: bool = False) -> str:
    """Return the text of the template that is used; if there are several, the one for tools when there are tools."""
    return tokenizer.get_chat_template(tools=[{}] if has_tools else None)


def _may_be_omitted(tokenizer: PreTrainedTokenizerFast, turn: Message, key: str, *, is_last: bool) -> bool:
    if turn.role == "tool" and key in _LINKS:
        return True
    return key in THOUGHT_KEYS and not is_last and reads_thoughts(template_text(tokenizer))


def _without_key(turn: Message, key: str) -> Iterator[tuple[str, object, Message]]:
    """Yield a key, and each item if it holds a list of several: the name, the value, and the turn without it."""
    extra = json.loads(turn.extra)
    yield key, extra[key], replace(turn, extra=_without(extra, key))
    values = extra[key] if isinstance(extra[key], list) and len(extra[key]) > 1 else []
    for place, value in enumerate(values):  # for example, some templates show only the first of several calls
        fewer = {**extra, key: values[:place] + values[place + 1 :]}
        yield f"part of {key}", value, replace(turn, extra=json.dumps(fewer))


def _without(values: Mapping[str, Any], key: str) -> str:
    """Return the JSON object without a key; an empty text if it had no other."""
    fewer = {name: value for name, value in values.items() if name != key}
    return json.dumps(fewer) if fewer else ""


def _with_arguments(messages: list[dict[str, Any]], form: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """Return the messages with ``form`` applied to the arguments of every call; datasets have objects and text."""
    return [
        {**message, "tool_calls": [_call_with(call, form) for call in message["tool_calls"]]}
        if isinstance(message.get("tool_calls"), list)
        else message
        for message in messages
    ]


def _call_with(call: Any, form: Callable[[Any], Any]) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or "arguments" not in function:
        return call
    return {**call, "function": {**function, "arguments": form(function["arguments"])}}


def _arguments(messages: list[dict[str, Any]]) -> list[Any]:
    """Return the arguments of all calls, as objects."""
    found: list[Any] = []
    _with_arguments(messages, lambda arguments: found.append(_as_object(arguments)))
    return found


def _as_object(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
