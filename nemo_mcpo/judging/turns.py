# SPDX-License-Identifier: Apache-2.0
"""Converts a turn of a conversation to text, including its tool calls, reasoning and other fields.

>>> from nemo_mcpo.records import Message
>>> turn_text(Message("user", "What is 2+2?"))
'What is 2+2?'
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

_ALWAYS = {"role", "content"}


def turn_text(turn: Any) -> str:
    """The content of a turn, then each of its other keys as ``(key) value``.

    Args:
        turn: a dataclass with ``role``, ``content`` and possibly more fields; a field with a JSON object as text
            counts as several keys.
    """
    content = turn.content or ""
    content = content if isinstance(content, str) else _as_json(content)
    return "\n".join(part for part in (content, *_further_parts(turn)) if part)


def _further_parts(turn: Any) -> Iterator[str]:
    for name in (field.name for field in fields(turn)):
        value = getattr(turn, name)
        if name in _ALWAYS or not value:
            continue
        known = _object_of(value)
        for key, item in ({name: value} if known is None else known).items():
            if item:
                yield f"({key}) {item if isinstance(item, str) else _as_json(item)}"


def _object_of(value: object) -> Mapping[str, object] | None:
    """The JSON object that a text represents, or None."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, str) or not value.startswith("{"):
        return None
    try:
        return json.loads(value)
    except ValueError:
        return None


def _as_json(value: object) -> str:
    def plain(part: object) -> object:
        if is_dataclass(part) and not isinstance(part, type):
            return asdict(part)
        return dict(part) if isinstance(part, Mapping) else str(part)

    return json.dumps(value, ensure_ascii=False, default=plain)
