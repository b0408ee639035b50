# SPDX-License-Identifier: Apache-2.0
"""Nothing in a turn is hidden from the judge."""

from __future__ import annotations

import json

from nemo_mcpo.judging.turns import turn_text
from nemo_mcpo.records import Message


def turn(role: str, content: str, **extra: object) -> Message:
    return Message(role, content, json.dumps(extra))


def test_text_alone():
    assert turn_text(Message("user", "Hi <b>there</b>\n")) == "Hi <b>there</b>\n"
    assert turn_text(Message("assistant", "")) == ""


def test_other_keys_follow_the_text():
    calls = [{"name": "add", "arguments": {"a": "ä"}}, {"name": "say", "arguments": "{}"}]
    assert turn_text(turn("assistant", "I add.", reasoning_content="2 and 2", tool_calls=calls)) == (
        "I add.\n(reasoning_content) 2 and 2\n"
        '(tool_calls) [{"name": "add", "arguments": {"a": "ä"}}, {"name": "say", "arguments": "{}"}]'
    )


def test_empty_keys_are_left_out():
    told = turn("tool", "4", tool_call_id="c1", name="add", reasoning_content=None, tool_calls=[])
    assert turn_text(told) == "4\n(tool_call_id) c1\n(name) add"


def test_a_call_without_text():
    assert turn_text(turn("assistant", "", tool_calls=[{"name": "add"}])) == '(tool_calls) [{"name": "add"}]'
