# SPDX-License-Identifier: Apache-2.0
"""Columns beside the prompt that change what a model sees: each is read, for every format, or drops the record.

system, system_prompt, system_message     the system turn: a text, or a list of text parts
tools, functions                          functions that the model may call: a list, an object by name, or JSON text
documents                                 documents that it may quote: a list of objects
chat_template_kwargs                      further inputs of the chat template
images, context, input, history, …        not supported
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nemo_mcpo.data.formats.messages import extra_text, text_of
from nemo_mcpo.data.formats.records import BadRecordError, checked_text
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Message

SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
TOOL_COLUMNS = ("tools", "functions")
UNSUPPORTED_COLUMNS = (
    "image", "images", "video", "videos", "audio", "audios", "input", "context", "contexts", "passages", "history",
    "few_shot", "chat_template", "response_format",
)  # fmt: skip
_SCHEMAS = {"input_schema", "inputSchema"}
CONTEXT_COLUMNS = frozenset(
    {*SYSTEM_COLUMNS, *TOOL_COLUMNS, *UNSUPPORTED_COLUMNS, "documents", "chat_template_kwargs"}
)


def with_system_turn(row: Row, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return ``turns``, preceded by the system turn if a column holds one."""
    texts = [text for name in SYSTEM_COLUMNS if (text := _system_text(row, name))]
    if not texts:
        return turns
    own = [turn.content for turn in turns if turn.role == "system"]
    if len(set(texts + own)) > 1:
        raise BadRecordError("two different system turns", f"{texts[0][:60]} / {[*own, *texts][-1][:60]}")
    return turns if own else (Message("system", texts[0]), *turns)


def template_inputs(row: Row) -> str:
    """Return the JSON object of ``PreferenceRecord.inputs``.

    Raises:
        BadRecordError: a column cannot be read, or one that is not supported is not empty.
    """
    for name in UNSUPPORTED_COLUMNS:
        if row.get(name) not in (None, "", [], {}):
            raise BadRecordError(f"the column {name} is not supported", str(row[name])[:80])
    kwargs = _decoded(row, "chat_template_kwargs")
    if kwargs and not isinstance(kwargs, Mapping):
        raise BadRecordError("chat_template_kwargs is not an object", str(kwargs)[:80])
    inputs: dict[str, Any] = dict(kwargs)
    if "chat_template" in inputs:
        raise BadRecordError("a chat template in the data is not supported", str(inputs["chat_template"])[:80])
    if tools := [tool for name in TOOL_COLUMNS for tool in _tools(row, name)]:
        inputs["tools"] = tools
    if documents := _objects_of(_decoded(row, "documents"), "documents"):
        inputs["documents"] = documents
    return extra_text(inputs)


def _system_text(row: Row, name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str | list):
        raise BadRecordError(f"the column {name} is not text", str(value)[:80])
    return checked_text(text_of(value))


def _tools(row: Row, name: str) -> list[Mapping[str, Any]]:
    value = _decoded(row, name)
    if _is_bare(value):  # tools by name
        tools = {key: _decode(tool, name) for key, tool in value.items()}
        value = [{"name": key, **tool} if _is_bare(tool) else tool for key, tool in tools.items()]
    return [_tool(tool, name) for tool in _objects_of(value, name)]


def _is_bare(tool: Any) -> bool:
    return isinstance(tool, Mapping) and not tool.keys() & {"name", "function"}


def _tool(tool: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a tool in OpenAI's form, which templates read; OpenAI Responses, Anthropic, and MCP have flat forms."""
    nested = "function" in tool
    function = _decode(tool["function"], name) if nested else {k: v for k, v in tool.items() if k != "type"}
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRecordError(f"{name}: a tool has no name", str(dict(tool))[:80])
    function = {"parameters" if key in _SCHEMAS else key: value for key, value in function.items()}
    if isinstance(function.get("parameters"), str):
        function["parameters"] = _decode(function["parameters"], name)
    rest = {key: value for key, value in tool.items() if key != "function"} if nested else {}
    return {"type": tool.get("type", "function"), **rest, "function": function}


def _objects_of(value: Any, name: str) -> list[Mapping[str, Any]]:
    objects = value if isinstance(value, list) else [value]
    objects = [_decode(one, name) for one in objects]
    if not all(isinstance(one, Mapping) and one for one in objects):
        raise BadRecordError(f"{name} is not a list of objects", str(value)[:80])
    return objects


def _decoded(row: Row, name: str) -> Any:
    """Return the value of a column, parsed if it is JSON text; an empty list if there is none."""
    return _decode(row.get(name) or [], name) or []


def _decode(value: Any, name: str) -> Any:
    """Return a value, parsed if it is JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else []
    except ValueError as error:
        raise BadRecordError(f"{name} is not JSON", value[:80]) from error
