# SPDX-License-Identifier: Apache-2.0
"""Columns beside the prompt are read or drop the record; none is silently ignored."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from nemo_mcpo.data.formats import FORMATS, Rules, read_records
from nemo_mcpo.data.formats.context import SYSTEM_COLUMNS
from nemo_mcpo.records import Message
from tests.unit.data.formats.reading import read

ROW: dict[str, Any] = {"prompt": "2+2?", "responses": [{"text": "4"}, {"text": "5"}]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("column", SYSTEM_COLUMNS)
def test_a_system_column_is_the_system_turn(write_jsonl, column):
    records, _ = read("jsonl", write_jsonl({**ROW, column: " Be kind. "}))
    assert records[0].prompt == (Message("system", "Be kind."), Message("user", "2+2?"))


def test_a_system_column_may_hold_text_parts(write_jsonl):
    records, _ = read("jsonl", write_jsonl({**ROW, "system": [{"type": "text", "text": "Be kind."}]}))
    assert records[0].prompt[0] == Message("system", "Be kind.")


@pytest.mark.parametrize("empty", [None, "", " "])
def test_an_empty_system_column_is_ignored(write_jsonl, empty):
    assert len(read("jsonl", write_jsonl({**ROW, "system": empty}))[0][0].prompt) == 1


def test_two_system_turns_must_agree(write_jsonl):
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "2+2?"}]
    same, other = {**ROW, "prompt": turns, "system": "Be kind."}, {**ROW, "prompt": turns, "system": "Be brief."}
    records, dropped = read("jsonl", write_jsonl(same, other))
    assert [turn.content for turn in records[0].prompt] == ["Be kind.", "2+2?"]
    assert dropped[0].reason == "two different system turns"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("tools", [TOOL]),
        ("tools", json.dumps([TOOL])),
        ("tools", TOOL),
        ("tools", [json.dumps(TOOL)]),
        ("functions", [TOOL["function"]]),
        ("tools", json.dumps([TOOL["function"]])),
        ("tools", {"add": json.dumps(TOOL)}),
        ("tools", {"add": {"parameters": TOOL["function"]["parameters"]}}),
        ("tools", [{"type": "function", **TOOL["function"]}]),
        ("tools", [{"name": "add", "input_schema": TOOL["function"]["parameters"]}]),
        ("tools", [{"function": {"name": "add", "parameters": json.dumps(TOOL["function"]["parameters"])}}]),
    ],
)
def test_tools_in_every_form_become_openais(write_jsonl, column, value):
    records, _ = read("jsonl", write_jsonl({**ROW, column: value}))
    assert json.loads(records[0].inputs) == {"tools": [TOOL]}


@pytest.mark.parametrize("empty", [None, "", [], "[]", "null"])
def test_no_tools(write_jsonl, empty):
    assert read("jsonl", write_jsonl({**ROW, "tools": empty}))[0][0].inputs == ""


def test_documents_and_template_arguments(write_jsonl):
    row = {**ROW, "documents": [{"title": "a", "text": "b"}], "chat_template_kwargs": {"enable_thinking": True}}
    records, _ = read("jsonl", write_jsonl(row))
    assert json.loads(records[0].inputs) == {"enable_thinking": True, "documents": [{"title": "a", "text": "b"}]}


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("tools", "{oops", "tools is not JSON"),
        ("tools", 7, "tools is not a list of objects"),
        ("tools", [{"description": "adds"}], "tools: a tool has no name"),
        ("system", {"content": "Be kind."}, "the column system is not text"),
        ("chat_template_kwargs", {"chat_template": "{{ 1 }}"}, "a chat template in the data is not supported"),
        ("documents", ["a"], "documents is not JSON"),
        ("chat_template_kwargs", [1], "chat_template_kwargs is not an object"),
        ("images", ["a.png"], "the column images is not supported"),
        ("context", "Paris is in France.", "the column context is not supported"),
        ("history", [["a", "b"]], "the column history is not supported"),
    ],
)
def test_unreadable_columns_drop_the_record(write_jsonl, column, value, reason):
    records, dropped = read("jsonl", write_jsonl({**ROW, column: value}, {**ROW, column: None}))
    assert len(records) == 1 and [drop.reason for drop in dropped] == [reason]


def test_ignored_keys_are_removed(write_jsonl):
    turn = {"role": "user", "content": "2+2?", "mood": "calm"}
    path = write_jsonl({**ROW, "prompt": [turn], "images": ["a.png"]})
    rules = Rules(ignored_keys=["images", "mood"])
    assert next(read_records(FORMATS["jsonl"], path, rules, on_drop=pytest.fail)).prompt == (Message("user", "2+2?"),)
    assert len(list(read_records(FORMATS["jsonl"], path, Rules(), on_drop=lambda drop: None))) == 0


def test_values_that_are_not_json_drop_the_record(tmp_path):
    path = tmp_path / "data.parquet"
    documents = [{"text": "a", "date": datetime(2024, 1, 1)}]
    parquet.write_table(pyarrow.Table.from_pylist([{**ROW, "documents": documents}, ROW]), path)
    records, dropped = read("jsonl", str(path))
    assert len(records) == len(dropped) == 1 and "datetime is not JSON serializable" in dropped[0].detail


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}


@pytest.mark.parametrize(
    "given",
    [
        json.dumps([CALL]),
        [json.dumps(CALL)],
        CALL,
        [CALL["function"]],
        [{"name": "add", "input": {"a": 2}}],
        [{"function": json.dumps(CALL["function"])}],
    ],
)
def test_calls_in_every_form_become_openais(write_jsonl, given):
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "tool_calls": given}]
    responses = [{"text": None, "tool_calls": given}, {"text": "5"}]
    row = {"prompt": [*turns, {"role": "tool", "content": "4"}], "responses": responses}
    record = read("jsonl", write_jsonl(row))[0][0]
    assert json.loads(record.prompt[1].extra) == {"tool_calls": [CALL]}
    assert json.loads(record.responses[0].extra) == {"tool_calls": [CALL]}


@pytest.mark.parametrize("given", ["{oops", [{"arguments": {}}], [{"name": "add", "arguments": "{oops"}]])
def test_unreadable_calls_drop_the_record(write_jsonl, given):
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "tool_calls": given}]
    _, dropped = read("jsonl", write_jsonl({**ROW, "prompt": [*turns, {"role": "tool", "content": "4"}]}))
    assert dropped[0].reason in ("a function call is not JSON", "a function call has no name")


def test_keys_that_arrow_adds_to_objects_are_removed(tmp_path):
    calls = [{"type": "function", "function": {"name": "add", "arguments": "{}"}}]
    turns = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "4", "name": "add"},
    ]
    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{**ROW, "prompt": turns}]), path)
    user, call, tool = read("jsonl", str(path))[0][0].prompt
    assert (user.extra, tool.extra) == ("", '{"name": "add"}')
    assert json.loads(call.extra) == {"tool_calls": calls} and call.content == ""
