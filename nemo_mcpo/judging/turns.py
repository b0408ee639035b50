# SPDX-License-Identifier: Apache-2.0
"""Converts a turn of a conversation to text, including its tool calls, reasoning and other fields.

>>> turn_text(Message("tool", "4", '{"name": "add", "arguments": {"a": 2}}'))
'4\\n(name) add\\n(arguments) {"a": 2}'
"""

from __future__ import annotations

import json

from nemo_mcpo.records import Message


def turn_text(turn: Message) -> str:
    """The content of a turn, then each of its other keys as ``(key) value``."""
    extra = json.loads(turn.extra) if turn.extra else {}
    parts = [turn.content]
    for key, value in extra.items():
        if value:
            parts.append(f"({key}) {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return "\n".join(filter(None, parts))
