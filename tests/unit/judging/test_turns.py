# SPDX-License-Identifier: Apache-2.0
"""Nothing in a turn is hidden from the judge."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from nemo_mcpo.judging.turns import turn_text
from nemo_mcpo.records import Message


@dataclass(frozen=True)
class Turn:
    """A message with more keys than ``Message`` has."""

    role: str
    content: Any
    reasoning_content: str | None = None
    tool_calls: Any = None
    more: str = ""


@dataclass(frozen=True)
class Call:
    name: str
    arguments: Any


def test_text_alone():
    assert turn_text(Message("user", "Hi <b>there</b>\n")) == "Hi <b>there</b>\n"
    assert turn_text(Turn("assistant", "")) == turn_text(Turn("assistant", None)) == ""


def test_other_keys_follow_the_text():
    turn = Turn("assistant", "I add.", "2 and 2", (Call("add", {"a": 2}), {"name": "say", "arguments": "{}"}))
    assert turn_text(turn) == (
        "I add.\n(reasoning_content) 2 and 2\n"
        '(tool_calls) [{"name": "add", "arguments": {"a": 2}}, {"name": "say", "arguments": "{}"}]'
    )


def test_keys_in_a_json_object():
    more = json.dumps({"tool_call_id": "c1", "name": "add", "reasoning_content": None})
    assert turn_text(Turn("tool", "4", more=more)) == "4\n(tool_call_id) c1\n(name) add"
    assert turn_text(Turn("tool", "4", more="{no JSON")) == "4\n(more) {no JSON"


def test_content_in_parts():
    assert turn_text(Turn("user", [{"type": "text", "text": "Hi"}])) == '[{"type": "text", "text": "Hi"}]'
