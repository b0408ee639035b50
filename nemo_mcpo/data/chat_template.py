# SPDX-License-Identifier: Apache-2.0
"""Renders conversations with a model's own chat template: alike on every day, and never without a part of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from transformers import PreTrainedTokenizerFast

from nemo_mcpo.data.thoughts import THOUGHT_KEYS, reads_thoughts, renamed
from nemo_mcpo.records import Message

TODAY = datetime(2024, 7, 26)
"""The date that templates get as today's. Llama 3.2, Mistral Small and SmolLM3 write it into every prompt, and the
same data must give the same tokens every day."""

TEMPLATE_ARGUMENTS = {"date_string": TODAY.strftime("%d %b %Y"), "enable_thinking": False, "thinking": False}
"""Values that a template may read. Without thinking, Qwen3 puts an empty thought before the answer, and DeepSeek V3.1,
which reads the other name, closes one."""

RECIPE = {**TEMPLATE_ARGUMENTS, "strftime_now": TODAY.date().isoformat()}
"""What determines, besides the template, how a conversation is rendered."""

_LINKS = {"tool_call_id", "name", "type"}
"""Keys of tool turns that templates may leave out: what they say follows from the order of the turns."""
_OTHER = "Sentinel"
_WORD = 8  # characters


class RefusedByTemplate(Exception):
    """A conversation cannot be rendered, or not without losing a part of it: a reason, and what exactly was found."""

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
    """A conversation as text.

    Args:
        inputs: of ``PreferenceRecord``.
        add_generation_prompt: end where the answer begins.
        thinking: whether the answer will have a thought, where the template asks for that.

    Raises:
        RefusedByTemplate: whatever the template fails with.
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
        # A template that joins the arguments of a call to text wants them as text: it fails, or writes Python.
        if not any(repr(one) in text and repr(one) != _as_text(one) for one in arguments):
            return text
    except Exception as error:  # a template can raise anything: it is a program
        if not arguments:
            raise RefusedByTemplate("chat template refused the prompt", _one_line(error)) from error
    try:
        return _apply(tokenizer, _with_arguments(messages, _as_text), values, add_generation_prompt)
    except Exception as error:
        raise RefusedByTemplate("chat template refused the prompt", _one_line(error)) from error


def check_shown(
    tokenizer: PreTrainedTokenizerFast, turns: Sequence[Message], inputs: str, rendered: str, *, thinking: bool
) -> None:
    """Refuses what the template leaves out of ``rendered``: a turn, a key of a turn, or an input such as tools.

    A part is shown if the text would differ without it. Templates that know thoughts may leave out those of earlier
    turns.
    """
    every = "\n".join(turn.content for turn in turns)
    for number, turn in enumerate(turns):
        if _may_be_missing(turn.content, every, rendered) and not _matters(
            tokenizer, _with(turns, number, Message(turn.role, _OTHER, turn.extra)), inputs, rendered, thinking
        ):
            raise RefusedByTemplate("the chat template leaves a turn out", f"{turn.role}: {turn.content[:80]}")
        for key in json.loads(turn.extra) if turn.extra else ():
            _check_key(tokenizer, turns, number, key, inputs, rendered, thinking)
    given = json.loads(inputs) if inputs else {}
    template = template_text(tokenizer, has_tools="tools" in given)
    for name in given:
        fewer = {key: value for key, value in given.items() if key != name}
        known = name not in ("tools", "documents") and name in template
        if not known and not _matters(tokenizer, turns, json.dumps(fewer) if fewer else "", rendered, thinking):
            raise RefusedByTemplate(f"the chat template does not show {name}", str(given[name])[:80])


def _may_be_missing(content: str, every: str, rendered: str) -> bool:
    """Whether a rendered conversation has fewer copies of a content than its turns have; a word may be the frame's."""
    return bool(content) and (len(content) < _WORD or rendered.count(content) < every.count(content))


def template_text(tokenizer: PreTrainedTokenizerFast, *, has_tools: bool = False) -> str:
    """The text of the template that is used: of several, the one for tools if there are any."""
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
        raise RefusedByTemplate(f"the chat template does not show {key}", f"{turn.role}: {str(extra[key])[:80]}")
    values = extra[key] if isinstance(extra[key], list) and len(extra[key]) > 1 else []
    for place, value in enumerate(values):  # such as calls, of which a template may show the first alone
        fewer = {**extra, key: values[:place] + values[place + 1 :]}
        other = Message(turn.role, turn.content, json.dumps(fewer))
        if not _matters(tokenizer, _with(turns, number, other), inputs, rendered, thinking):
            raise RefusedByTemplate(f"the chat template does not show all of {key}", f"{turn.role}: {str(value)[:80]}")


def _matters(
    tokenizer: PreTrainedTokenizerFast, turns: Sequence[Message], inputs: str, rendered: str, thinking: bool
) -> bool:
    """Whether other turns or inputs give another text; a template that refuses them has looked at them."""
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
    """The messages with the arguments of every call as an object or as text: data sets have both."""
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
    """The arguments of all calls, as objects."""
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
