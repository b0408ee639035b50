# SPDX-License-Identifier: Apache-2.0
"""One turn of a conversation in OpenAI's form (``role``, ``content``) or ShareGPT's (``from``, ``value``).

All other keys of a turn are passed on to the chat template; ``data.chat_template`` checks that it uses them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nemo_mcpo.data.formats.records import BadRecordError, checked_text
from nemo_mcpo.records import Message

ROLES = {
    "system": "system", "developer": "developer",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "tool": "tool", "observation": "tool", "function_response": "tool", "function": "tool", "ipython": "tool",
    "function_call": "assistant", "tool_call": "assistant",
}  # fmt: skip
"""Roles in datasets, and their names in chat templates."""

_CALLS = {"function_call", "tool_call"}
_ARGUMENTS = {"input", "parameters", "args"}
_OWN = {"role", "from", "content", "value"}
METADATA = frozenset({
    "id", "uuid", "message_id", "parent_id", "turn_id", "turn_identifier", "index", "idx", "timestamp", "time", "date",
    "created", "created_at", "create_time", "model", "model_name", "source", "url", "lang", "language", "score",
    "rating", "rank", "token_count", "num_tokens", "finish_reason", "metadata",
})  # fmt: skip
"""Keys of a turn that are not meant for the model."""


def parse_message(turn: Any) -> Message:
    """Return a turn, given in either form.

    Raises:
        BadRecordError: it has neither form, or its content is not text.
    """
    if not isinstance(turn, Mapping):
        raise BadRecordError("does not match the format's structure", f"turn: {type(turn).__name__}")
    given = turn.get("role", turn.get("from"))
    if not isinstance(given, str):
        raise BadRecordError("does not match the format's structure", f"role: {type(given).__name__}")
    for names in (("role", "from"), ("content", "value")):
        if all(turn.get(name) is not None for name in names) and turn[names[0]] != turn[names[1]]:
            raise BadRecordError(f"a turn has both {names[0]} and {names[1]}, which differ", str(dict(turn))[:80])
    role = ROLES.get(given.lower())
    if role is None:
        raise BadRecordError("unknown role", given)
    content = turn.get("content", turn.get("value"))
    extra = {key: value for key, value in turn.items() if key not in _OWN | METADATA and not _is_empty(value)}
    if given.lower() in _CALLS:
        content, extra["tool_calls"] = "", content
    if "function_call" in extra:
        extra["tool_calls"] = extra.pop("function_call")
    if "tool_calls" in extra:
        extra["tool_calls"] = _tool_calls(extra["tool_calls"])
    if content is None and not extra:
        raise BadRecordError("does not match the format's structure", "content: NoneType")
    return Message(role, checked_text(text_of(content)), extra_text(extra))


def extra_text(extra: Mapping[str, Any]) -> str:
    """Return a turn's other keys as ``Message.extra``; raise BadRecordError if they are not JSON or not Unicode."""
    if not extra:
        return ""
    try:
        text = json.dumps(dict(extra), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise BadRecordError("does not match the format's structure", f"{sorted(extra)}: {error}") from error
    return checked_text(text)


def text_of(content: Any) -> str:
    """Return the text of a content that is a string, None, or a list of text parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRecordError("does not match the format's structure", f"content: {type(content).__name__}")
    return "".join(_part(part) for part in content)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str) and part.get("type", "text") == "text":
        return part["text"]
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise BadRecordError("a part of a message is not text", kind)


def _tool_calls(value: Any) -> list[dict[str, Any]]:
    """Return OpenAI's ``tool_calls`` from one or more calls, given as objects or JSON text."""
    calls = _decoded(value)
    return [_tool_call(_decoded(call)) for call in (calls if isinstance(calls, list) else [calls])]


def _tool_call(call: Any) -> dict[str, Any]:
    """Return one call in OpenAI's form; the input may be flat, or have its arguments under another provider's key."""
    nested = isinstance(call, Mapping) and "function" in call
    function = _decoded(call["function"]) if nested else call
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRecordError("a function call has no name", call)
    own = {"arguments" if key in _ARGUMENTS else key: value for key, value in function.items()}
    rest = {key: value for key, value in call.items() if key != "function"} if nested else {}
    rest |= {key: own.pop(key) for key in ("type", "id", "index") if key in own}
    arguments = own.get("arguments")
    if _is_empty(arguments):
        own["arguments"] = {}
    elif isinstance(arguments, str):
        _decoded(arguments)
    return {**rest, "type": "function", "function": own}


def _decoded(value: Any) -> Any:
    """Return a value, parsed if it is JSON text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise BadRecordError("a function call is not JSON", value) from error


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {}) or value == ()
