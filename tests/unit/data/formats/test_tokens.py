# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.unit.data.formats.reading import read

RESPONSES = [{"ids": [3, 4], "rank": 2}, {"ids": [5], "rank": 1}, {"ids": [6, 7], "rank": 3}]


def test_ids_as_they_are(write_jsonl):
    [record], _ = read("tokens", write_jsonl({"prompt_ids": [1, 2], "responses": RESPONSES}), drop_ranks=(2,))
    assert record.prompt == (1, 2)
    assert [response.tokens for response in record.responses] == [(5,), (6, 7)]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt_ids": [], "responses": RESPONSES}, "empty prompt"),
        ({"prompt_ids": [1], "responses": [{"ids": [], "rank": 1}, RESPONSES[2]]}, "empty response"),
        ({"prompt_ids": [1], "responses": RESPONSES[:1]}, "only one response"),
        ({"prompt_ids": [1.5], "responses": RESPONSES}, "does not match the format's structure"),
        ({"prompt_ids": ["1"], "responses": RESPONSES}, "does not match the format's structure"),
        ({"prompt_ids": [[1], [2, 3]], "responses": RESPONSES}, "does not match the format's structure"),
        ({"prompt_ids": [[1], [2]], "responses": RESPONSES}, "does not match the format's structure"),
        ({"prompt_ids": [2**63], "responses": RESPONSES}, "does not match the format's structure"),
        ({"prompt_ids": [2**70], "responses": RESPONSES}, "does not match the format's structure"),
        ({"prompt_ids": [True], "responses": RESPONSES}, "does not match the format's structure"),
        ({"prompt_ids": "12", "responses": RESPONSES}, "does not match the format's structure"),
        ({"prompt_ids": [1], "responses": [{"text": "a"}, {"text": "b"}]}, "does not match the format's structure"),
    ],
)
def test_bad_records_are_dropped(write_jsonl, record, reason):
    records, dropped = read("tokens", write_jsonl({"prompt_ids": [1], "responses": RESPONSES}, record))
    assert len(records) == 1
    assert [drop.reason for drop in dropped] == [reason]
