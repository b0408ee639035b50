# SPDX-License-Identifier: Apache-2.0
"""Renders conversations with a model's own chat template: reproducibly, and without losing any part of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from transformers import PreTrainedTokenizerFast

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


class RefusedByTemplate(Exception):
    """A conversation cannot be rendered without losing a part of it: the reason, and what exactly was found."""

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, str(detail)[:200]


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
    try:
        text = _apply(tokenizer, _with_arguments(messages, _as_object), values, add_generation_prompt)
        # A template that concatenates a call's arguments expects them as text: with objects it fails or writes a repr.
        if not any(repr(one) in text and repr(one) != _as_text(one) for one in arguments):
            return text
    except Exception as error:  # a template is a program, which can raise anything
        if not arguments:
            raise RefusedByTemplate("chat template refused the prompt", _one_line(error)) from error
    try:
        return _apply(tokenizer, _with_arguments(messages, _as_text), values, add_generation_prompt)
    except Exception as error:
        raise RefusedByTemplate("chat template refused the prompt", _one_line(error)) from error


def check_shown(
    tokenizer: PreTrainedTokenizerFast, turns: Sequence[Message], inputs: str, rendered: str, *, thinking: bool
) -> None:
    """Raise RefusedByTemplate if ``rendered`` omits a turn, a key of a turn, or an input such as tools.

    A part counts as shown if the text would be different without it. Templates that support thoughts may omit those of
    earlier turns.
    """
    every = "\n".join(turn.content for turn in turns)
    for number, turn in enumerate(turns):
        if _may_be_missing(turn.content, every, rendered) and not _matters(
            tokenizer, _with(turns, number, Message(turn.role, _OTHER, turn.extra)), inputs, rendered, thinking
        ):
            raise RefusedByTemplate("the chat template omits a turn", f"{turn.role}: {turn.content[:80]}")
        for key in json.loads(turn.extra) if turn.extra else ():
            _check_key(tokenizer, turns, number, key, inputs, rendered, thinking)
    given = json.loads(inputs) if inputs else {}
    template = template_text(tokenizer, has_tools="tools" in given)
    for name in given:
        fewer = {key: value for key, value in given.items() if key != name}
        known = name not in ("tools", "documents") and name in template
        if not known and not _matters(tokenizer, turns, json.dumps(fewer) if fewer else "", rendered, thinking):
            raise RefusedByTemplate(f"the chat template omits {name}", str(given[name])[:80])


def _may_be_missing(content: str, every: str, rendered: str) -> bool:
    """Return whether the rendered text may lack a turn's content; this only saves the cost of a second rendering."""
    # A short content proves nothing: the template's own text may contain the same word.
    return bool(content) and (len(content) < _WORD or rendered.count(content) < every.count(content))


def template_text(tokenizer: PreTrainedTokenizerFast, *, has_tools: bool = False) -> str:
    """Return the text of the template that is used; if there are several, the one for tools when there are tools."""
    return tokenizer.get_chat_template(tools=[{}] if has_tools else None)


def _check_key(
    tokenizer: PreTrainedTokenizerFast,
    turns: Sequence[Message],
    number: int,
    key: str,
    inputs: str,
    rendered: str,
    thinking: bool,
) -> None:
    turn = turns[number]
    extra = json.loads(turn.extra)
    if turn.role == "tool" and key in _LINKS:
        return
    if key in THOUGHT_KEYS and reads_thoughts(template_text(tokenizer)) and number < len(turns) - 1:
        return
    fewer = {name: value for name, value in extra.items() if name != key}
    other = Message(turn.role, turn.content, json.dumps(fewer) if fewer else "")
    if not _matters(tokenizer, _with(turns, number, other), inputs, rendered, thinking):
        raise RefusedByTemplate(f"the chat template omits {key}", f"{turn.role}: {str(extra[key])[:80]}")
    values = extra[key] if isinstance(extra[key], list) and len(extra[key]) > 1 else []
    for place, value in enumerate(values):  # for example, some templates show only the first of several calls
        fewer = {**extra, key: values[:place] + values[place + 1 :]}
        other = Message(turn.role, turn.content, json.dumps(fewer))
        if not _matters(tokenizer, _with(turns, number, other), inputs, rendered, thinking):
            raise RefusedByTemplate(f"the chat template omits part of {key}", f"{turn.role}: {str(value)[:80]}")


def _matters(
    tokenizer: PreTrainedTokenizerFast, turns: Sequence[Message], inputs: str, rendered: str, thinking: bool
) -> bool:
    """Return whether these turns or inputs give a different text; a template that refuses them has read them."""
    asks = turns[-1].role != "assistant"
    try:
        return render(tokenizer, turns, inputs, add_generation_prompt=asks, thinking=thinking) != rendered
    except RefusedByTemplate:
        return True


def _with(turns: Sequence[Message], number: int, turn: Message) -> list[Message]:
    return [*turns[:number], turn, *turns[number + 1 :]]


def _apply(
    tokenizer: PreTrainedTokenizerFast,
    messages: list[dict[str, Any]],
    values: Mapping[str, Any],
    add_generation_prompt: bool,
) -> str:
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt, **values
    )


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
