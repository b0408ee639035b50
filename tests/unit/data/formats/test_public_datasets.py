# SPDX-License-Identifier: Apache-2.0
"""Rows of public datasets in their original columns: the detected format, the prompt, and the responses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nemo_mcpo.data.formats import FORMATS, choose_format
from nemo_mcpo.errors import DataError
from nemo_mcpo.records import Message
from tests.unit.data.formats.reading import read, texts

USER = {"role": "user", "content": "2+2?"}
RIGHT, WRONG = {"role": "assistant", "content": "4"}, {"role": "assistant", "content": "5"}
HUMAN, GPT = {"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}
LONG = "How much is two and two?"
QUESTION = (Message("user", "2+2?"),)

PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "anthropic-hh": (
        "hh",
        {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5"},
    ),
    "hh-with-prompt": ("jsonl", {"prompt": "\n\nHuman: 2+2?\n\nAssistant:", "chosen": " 4", "rejected": " 5"}),
    "hh-twice": (
        "jsonl",
        {
            "prompt": "\n\nHuman: 2+2?\n\nAssistant:",
            "chosen": "\n\nHuman: 2+2?\n\nAssistant: 4",
            "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5",
        },
    ),
    "dialogue-with-responses": (
        "jsonl",
        {"prompt": "Human: 2+2?\n\nAssistant:", "responses": [{"text": "4"}, {"text": "5"}]},
    ),
    "sharegpt": ("sharegpt", {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "5"}}),
    "ultrafeedback": (
        "ultrafeedback",
        {
            "instruction": "2+2?",
            "completions": [{"response": "5", "overall_score": 1}, {"response": "4", "overall_score": 9}],
            "models": ["a", "b"],
        },
    ),
    "ultrafeedback-binarized": (
        "jsonl",
        {
            "prompt": "2+2?",
            "prompt_id": "ab12",
            "chosen": [USER, RIGHT],
            "rejected": [USER, WRONG],
            "messages": [USER, RIGHT],
            "score_chosen": 9.0,
            "score_rejected": 2.0,
        },
    ),
    "trl-explicit": ("jsonl", {"prompt": [USER], "chosen": [RIGHT], "rejected": [WRONG]}),
    "trl-implicit": ("jsonl", {"chosen": [USER, RIGHT], "rejected": [USER, WRONG]}),
    "trl-text": ("jsonl", {"prompt": "2+2?", "chosen": "4", "rejected": "5"}),
    "tulu": (
        "jsonl",
        {"id": "x", "source": "y", "prompt": "2+2?", "chosen": [USER, RIGHT], "rejected": [USER, WRONG]},
    ),
    "orca": ("jsonl", {"question": "2+2?", "chosen": "4", "rejected": "5"}),
    "nectar": (
        "nectar",
        {
            "prompt": "\n\nHuman: 2+2?\n\nAssistant: ",
            "answers": [{"answer": "5", "rank": 2.0, "model": "b"}, {"answer": "4", "rank": 1.0, "model": "a"}],
            "source": ["x"],
        },
    ),
    "own": ("jsonl", {"prompt": "2+2?", "responses": [{"text": "4"}, {"text": "5"}]}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_format_is_detected_from_the_columns(write_jsonl, name):
    expected, row = PAIRS[name]
    path = write_jsonl(row)
    assert choose_format(path, "auto", min_answers=2).name == expected
    records, dropped = read("auto", path)
    assert dropped == []
    assert records[0].prompt == QUESTION and texts(records[0]) == ["4", "5"]


@pytest.mark.parametrize("name", PAIRS)
def test_prompts_are_found_too(write_jsonl, name):
    records, dropped = read("auto", write_jsonl(PAIRS[name][1]), min_answers=0)
    assert dropped == [] and records[0].prompt == QUESTION


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, RIGHT]},
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": [USER], "completion": [RIGHT]},
        {"conversations": [HUMAN, GPT]},
    ],
)
def test_one_response_is_enough_for_sft(write_jsonl, row):
    path = write_jsonl(row)
    records, dropped = read("auto", path, min_answers=1)
    assert dropped == [] and records[0].prompt == QUESTION and texts(records[0]) == ["4"]
    assert read("auto", path)[1][0].reason == "only one response"
    assert read("auto", path, min_answers=0)[0][0].prompt == QUESTION


def test_the_first_row_may_be_unusable(write_jsonl):
    good = {"prompt": "2+2?", "responses": [{"text": "4"}, {"text": "5"}]}
    records, dropped = read("auto", write_jsonl({**good, "prompt": None}, good))
    assert len(records) == len(dropped) == 1


@pytest.mark.parametrize(
    ("name", "given", "fitting"),
    [("anthropic-hh", "jsonl", "hh"), ("nectar", "jsonl", "nectar"), ("sharegpt", "jsonl", "sharegpt")],
)
def test_the_error_for_a_wrong_format_names_the_right_one(write_jsonl, name, given, fitting):
    with pytest.raises(DataError) as caught:
        choose_format(write_jsonl(PAIRS[name][1]), given, min_answers=2)
    assert f"model.data.format={fitting}," in caught.value.fix


def test_the_error_for_unknown_columns_lists_the_formats(write_jsonl):
    with pytest.raises(DataError) as caught:
        choose_format(write_jsonl({"human_ref_A": "4", "human_ref_B": "5"}), "auto", min_answers=2)
    assert caught.value.where.endswith("data.jsonl:1") and caught.value.got == ["human_ref_A", "human_ref_B"]
    assert all(f"{name}: " in caught.value.expected for name in FORMATS)


def test_unread_columns_are_listed(write_jsonl):
    path = write_jsonl({**PAIRS["trl-text"][1], "source": "x", "system": "Be kind."})
    assert choose_format(path, "auto", min_answers=2).unread == ("source",)
    path = write_jsonl({"question": "2+3?", "prompt": "2+2?", "responses": [{"text": "4"}, {"text": "5"}]})
    assert choose_format(path, "auto", min_answers=2).unread == ("question",)


def test_a_system_turn_of_the_prompt_column_is_kept(write_jsonl):
    system = {"role": "system", "content": "Be kind."}
    row = {"prompt": [system, USER], "chosen": [USER, RIGHT], "rejected": [USER, WRONG]}
    assert read("auto", write_jsonl(row))[0][0].prompt == (Message("system", "Be kind."), *QUESTION)
    longer = [USER, RIGHT, {"role": "user", "content": "3+3?"}]
    _, dropped = read("auto", write_jsonl({**row, "chosen": [*longer, RIGHT], "rejected": [*longer, WRONG]}))
    assert dropped[0].reason == "the prompt differs from that of chosen and rejected"


def test_calls_in_sharegpt_become_tool_calls(write_jsonl):
    call = json.dumps({"name": "add", "arguments": {"a": 2}})
    turns = [HUMAN, {"from": "function_call", "value": call}, {"from": "observation", "value": "4"}]
    records, _ = read("auto", write_jsonl({**PAIRS["sharegpt"][1], "conversations": turns}))
    assert [turn.role for turn in records[0].prompt] == ["user", "assistant", "tool"]
    assert json.loads(records[0].prompt[1].extra) == {
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Else?", "chosen": [USER, RIGHT], "rejected": [USER, WRONG]}, "the prompt differs from that of"),
        ({"chosen": [USER, RIGHT], "rejected": [{**USER, "content": "3+3?"}, WRONG]}, "different prompts"),
        ({"prompt": [USER], "chosen": [RIGHT, USER], "rejected": [WRONG]}, "does not end with an assistant turn"),
        ({"prompt": [{**USER, "value": "3+3?"}], "completion": "4"}, "a turn has both content and value"),
        ({"prompt": [{**USER, "from": "gpt"}], "completion": "4"}, "a turn has both role and from"),
        ({"prompt": [USER], "completion": [RIGHT, RIGHT]}, "completion has several turns"),
        (
            {"prompt": "How much is two and two?", "chosen": f"{LONG} 4", "rejected": f"{LONG} 5"},
            "chosen and rejected repeat the prompt",
        ),
        ({"prompt": "2+2?", "completion": "5", "label": False}, "a response with a label (KTO) is not supported"),
    ],
)
def test_inconsistent_pairs_are_dropped(write_jsonl, row, reason):
    records, dropped = read("jsonl", write_jsonl(row), min_answers=1)
    assert records == [] and reason in dropped[0].reason


def test_a_call_at_the_start_of_both_responses_belongs_to_the_prompt(write_jsonl):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}
    result = {"role": "tool", "content": "4"}
    row = {"prompt": [USER], "chosen": [call, result, RIGHT], "rejected": [call, result, WRONG]}
    records, _ = read("jsonl", write_jsonl(row))
    assert [turn.role for turn in records[0].prompt] == ["user", "assistant", "tool"]
    assert texts(records[0]) == ["4", "5"]
