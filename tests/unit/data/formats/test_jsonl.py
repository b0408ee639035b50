# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from nemo_mcpo.records import Message
from tests.unit.data.formats.reading import read, texts

TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "1+1?"},
]
STRUCTURE = "does not match the format's structure"
RESPONSES = [{"text": "b", "rank": 2}, {"text": "a", "rank": 1}, {"text": "c", "rank": 3}]


def test_prompt_as_text_or_messages(write_jsonl):
    path = write_jsonl({"prompt": " Hi ", "responses": RESPONSES}, {"prompt": TURNS, "responses": RESPONSES})
    records, _ = read("jsonl", path, drop_ranks=(2,))
    assert records[0].prompt == (Message("user", "Hi"),)
    assert records[1].prompt == tuple(Message(turn["role"], turn["content"]) for turn in TURNS)
    assert texts(records[0]) == ["a", "c"]


def test_responses_by_rank_by_score_or_as_listed(write_jsonl):
    scored = [{"text": "b", "score": 0.5}, {"text": "a", "score": 2}]
    path = write_jsonl(
        {"prompt": "Hi", "responses": RESPONSES},
        {"prompt": "Hi", "responses": scored},
        {"prompt": "Hi", "responses": [{"text": "b"}, {"text": "a"}]},
        {"prompt": "Hi", "responses": [{"text": "b", "rating": 1}, {"text": "a", "rating": 2}]},
    )
    records, dropped = read("jsonl", path)
    assert [texts(record) for record in records] == [["a", "b", "c"], ["a", "b"], ["b", "a"]]
    assert [drop.detail for drop in dropped] == ["responses: ['rating'] but no rank or score"]


def test_pairs_in_three_forms(write_jsonl):
    chosen, rejected = ({"role": "assistant", "content": text} for text in ("a", "b"))
    path = write_jsonl(
        {"prompt": TURNS, "chosen": "a", "rejected": "b"},
        {"prompt": TURNS, "chosen": [chosen], "rejected": [rejected]},
        {"chosen": [*TURNS, chosen], "rejected": [*TURNS, rejected]},
    )
    records, dropped = read("jsonl", path, drop_ranks=(2,))
    assert not dropped
    assert len({(record.prompt, record.responses) for record in records}) == 1
    assert texts(records[0]) == ["a", "b"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "", "responses": RESPONSES}, "empty prompt"),
        ({"prompt": [], "responses": RESPONSES}, "empty prompt"),
        ({"prompt": [{"role": "user", "content": " "}], "responses": RESPONSES}, "empty prompt"),
        ({"prompt": None, "responses": RESPONSES}, STRUCTURE),
        ({"prompt": TURNS[:3], "responses": RESPONSES}, "prompt does not end with a user turn"),
        ({"prompt": [{"role": "narrator", "content": "x"}], "responses": RESPONSES}, "unknown role"),
        ({"prompt": [{"role": "user", "content": None}], "responses": RESPONSES}, STRUCTURE),
        ({"prompt": ["Hi"], "responses": RESPONSES}, STRUCTURE),
        ({"prompt": "\ud800", "responses": RESPONSES}, "text is not valid Unicode"),
        ({"prompt": "Hi", "responses": []}, "no responses"),
        ({"prompt": "Hi", "responses": RESPONSES[:1]}, "only one response"),
        ({"prompt": "Hi", "responses": ["a", "b"]}, STRUCTURE),
        ({"prompt": "Hi", "responses": {"a": 1}}, STRUCTURE),
        ({"prompt": "Hi", "chosen": "a", "rejected": None}, STRUCTURE),
        ({"prompt": "Hi", "chosen": "a", "rejected": "\n"}, "empty response"),
        ({"chosen": TURNS, "rejected": TURNS}, "chosen or rejected does not end with an assistant turn"),
        ({"other": 1}, STRUCTURE),
    ],
)
def test_bad_records_are_dropped(write_jsonl, record, reason):
    path = write_jsonl({"prompt": "Hi", "responses": RESPONSES}, record)
    records, dropped = read("jsonl", path)
    assert len(records) == 1
    assert [(drop.source, drop.reason) for drop in dropped] == [(f"{path}:2", reason)]
