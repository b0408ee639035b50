# SPDX-License-Identifier: Apache-2.0
"""Prompts without responses: tokens come from the prepared dataset, text from the file."""

from __future__ import annotations

import json

import pytest

from nemo_mcpo.data.prompts import read_conversations
from nemo_mcpo.errors import DataError
from nemo_mcpo.judging.turns import turn_text
from nemo_mcpo.records import Message
from tests.unit.data.formats.reading import read

ONE = {"answer": "yes", "rank": 1.0}
ROWS = {
    "nectar": [{"prompt": "\n\nHuman: Hi"}, {"prompt": "\n\nHuman: Ho \n\nAssistant:", "answers": [ONE]}],
    "ultrafeedback": [{"instruction": "Hi"}, {"instruction": "Ho", "completions": []}],
    "jsonl": [{"prompt": "Hi"}, {"prompt": [{"role": "user", "content": "Ho"}], "responses": []}],
}


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", ROWS)
def test_prompts_alone(tmp_path, name):
    data = write(tmp_path / "data.jsonl", ROWS[name])
    records, dropped = read(name, data, min_answers=0)
    assert [record.prompt for record in records] == [(Message("user", "Hi"),), (Message("user", "Ho"),)]
    assert [record.responses for record in records] == [(), ()]
    assert dropped == []


def test_pairs_have_prompts_too(tmp_path):
    data = write(tmp_path / "data.jsonl", [{"prompt": "Hi", "chosen": "a", "rejected": "b"}])
    for name in ("jsonl", "ultrafeedback"):
        records, _ = read(name, data, min_answers=0)
        assert records[0].prompt == (Message("user", "Hi"),)


def test_tokens_have_prompts_too(tmp_path):
    records, dropped = read("tokens", write(tmp_path / "data.jsonl", [{"prompt_ids": [1, 2]}]), min_answers=0)
    assert (records[0].prompt, records[0].responses, dropped) == ((1, 2), (), [])


def test_one_response_is_enough_if_one_is_required(tmp_path):
    data = write(tmp_path / "data.jsonl", [{"prompt": "Hi", "responses": [{"text": "a", "score": 1.0}]}])
    assert len(read("jsonl", data, min_answers=1)[0]) == 1
    records, dropped = read("jsonl", data)
    assert records == [] and dropped[0].reason == "only one response"


def test_text_of_some_records(tmp_path):
    rows = [{"prompt": f"Question {number}"} for number in range(5)] + [{"prompt": ""}]
    data = write(tmp_path / "data.jsonl", rows)
    assert read_conversations(data, "jsonl", [f"{data}:2", f"{data}:5"]) == {
        f"{data}:2": (Message("user", "Question 1"),),
        f"{data}:5": (Message("user", "Question 4"),),
    }


def test_text_of_a_file_that_was_prepared_from_another_path(tmp_path):
    data = write(tmp_path / "data.jsonl", [{"prompt": f"Question {number}"} for number in range(3)])
    assert read_conversations(data, "jsonl", ["elsewhere.jsonl:2"]) == {
        "elsewhere.jsonl:2": (Message("user", "Question 1"),)
    }


def test_responses_take_precedence_over_a_pair(tmp_path):
    row = {"prompt": "Hi", "chosen": "c", "responses": [{"text": "a"}, {"text": "b"}]}
    records, dropped = read("jsonl", write(tmp_path / "data.jsonl", [row]))
    assert dropped == [] and [response.text for response in records[0].responses] == ["a", "b"]


def test_judges_see_tools(tmp_path):
    tools = [{"type": "function", "function": {"name": "add"}}]
    rows = [{"prompt": "Hi", "tools": tools}, {"prompt": "Ho", "tools": tools, "system": "Be kind."}]
    data = write(tmp_path / "data.jsonl", rows)
    alone, beside = read_conversations(data, "jsonl", [f"{data}:1", f"{data}:2"]).values()
    assert [turn.role for turn in alone] == [turn.role for turn in beside] == ["system", "user"]
    assert turn_text(alone[0]) == '(tools) [{"type": "function", "function": {"name": "add"}}]'
    assert turn_text(beside[0]).startswith("Be kind.\n(tools) ")


def test_token_ids_have_no_text(tmp_path):
    data = write(tmp_path / "data.jsonl", [{"prompt_ids": [1, 2]}])
    with pytest.raises(DataError, match="prompts have no text"):
        read_conversations(data, "auto", [f"{data}:1"])
