# SPDX-License-Identifier: Apache-2.0
"""Columns beside the prompt that change what a model reads: read for every format, or the record is dropped.

system, system_prompt, system_message     the system turn
tools, functions                          what the model may call: a list, or JSON text
documents                                 what it may quote: a list of objects
chat_template_kwargs                      further inputs of the chat template
images, context, input, history, …        not supported
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nemo_mcpo.data.formats.records import BadRecordError, checked_text
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Message

SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
TOOL_COLUMNS = ("tools", "functions")
UNSUPPORTED_COLUMNS = (
    "image", "images", "video", "videos", "audio", "audios", "input", "context", "contexts", "passages", "history",
    "few_shot", "chat_template", "response_format",
)  # fmt: skip
CONTEXT_COLUMNS = frozenset(
    {*SYSTEM_COLUMNS, *TOOL_COLUMNS, *UNSUPPORTED_COLUMNS, "documents", "chat_template_kwargs"}
)


def with_system_turn(row: Row, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """``turns`` after the system turn that a column holds, if one does."""
    texts = [checked_text(row[name]) for name in SYSTEM_COLUMNS if isinstance(row.get(name), str)]
    texts = [text for text in texts if text]
    if not texts:
        return turns
    own = [turn.content for turn in turns if turn.role == "system"]
    if len(set(texts + own)) > 1:
        raise BadRecordError("two different system turns", f"{texts[0][:60]} / {[*own, *texts][-1][:60]}")
    return turns if own else (Message("system", texts[0]), *turns)


def template_inputs(row: Row) -> str:
    """The JSON object of ``PreferenceRecord.inputs``.

    Raises:
        BadRecordError: a column of it cannot be read, or one that is not supported holds something.
    """
    for name in UNSUPPORTED_COLUMNS:
        if row.get(name) not in (None, "", [], {}):
            raise BadRecordError(f"the column {name} is not supported", str(row[name])[:80])
    inputs: dict[str, Any] = dict(_object(row, "chat_template_kwargs"))
    if tools := [tool for name in TOOL_COLUMNS for tool in _objects(row, name)]:
        inputs["tools"] = [_tool(tool) for tool in tools]
    if documents := _objects(row, "documents"):
        inputs["documents"] = documents
    return checked_text(json.dumps(inputs, ensure_ascii=False)) if inputs else ""


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool in OpenAI's form, which chat templates read, whatever form it comes in."""
    return {"type": "function", "function": tool} if "name" in tool and "type" not in tool else tool


def _objects(row: Row, name: str) -> list[Mapping[str, Any]]:
    value = _decoded(row, name)
    objects = value if isinstance(value, list) else [value]
    objects = [_decode(one, name) for one in objects]
    if not all(isinstance(one, Mapping) and one for one in objects):
        raise BadRecordError(f"{name} is not a list of objects", str(value)[:80])
    return objects


def _object(row: Row, name: str) -> Mapping[str, Any]:
    value = _decoded(row, name)
    if value and not isinstance(value, Mapping):
        raise BadRecordError(f"{name} is not an object", str(value)[:80])
    return value or {}


def _decoded(row: Row, name: str) -> Any:
    value = row.get(name)
    value = _decode(value, name) if value else []
    return value or []


def _decode(value: Any, name: str) -> Any:
    """A value that may be JSON in text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else []
    except ValueError as error:
        raise BadRecordError(f"{name} is not JSON", value[:80]) from error
