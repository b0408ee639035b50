# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

from nemo_mcpo.records import Message
from tests.unit.data.formats.reading import read, texts


def completions(*scores: float | None) -> dict:
    completions = [{"response": f"answer {score}", "overall_score": score} for score in scores]
    return {"instruction": "Hi", "completions": completions}


def pair(chosen: str, rejected: str, question: str = "Hi", scores: tuple[float, float] = (8.0, 5.0)) -> dict:
    sides = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for prompt, response in (("Hi", chosen), (question, rejected))
    ]
    return {"chosen": sides[0], "rejected": sides[1], "score_chosen": scores[0], "score_rejected": scores[1]}


def test_original_completions_by_overall_score(write_jsonl):
    [record], dropped = read("ultrafeedback", write_jsonl(completions(5.0, 8.5, 2.0, 7)), drop_ranks=(2,))
    assert record.prompt == (Message("user", "Hi"),)
    assert texts(record) == ["answer 8.5", "answer 7", "answer 5.0", "answer 2.0"]
    assert [response.score for response in record.responses] == [8.5, 7.0, 5.0, 2.0]
    assert not dropped


def test_bad_scores(write_jsonl):
    path = write_jsonl(completions(1, 2), completions(math.nan, 2), completions(None, 2), completions(3, 3))
    records, dropped = read("ultrafeedback", path)
    assert len(records) == 1
    assert [drop.reason for drop in dropped] == [
        "score is not a finite number",
        "score missing for some responses",
        "all scores equal",
    ]


def test_binarized_pairs_keep_their_order_and_scores(write_jsonl):
    path = write_jsonl(pair("good", "bad"), pair("good", "bad", scores=(5.0, 5.0)))
    records, dropped = read("ultrafeedback", path, drop_ranks=(2,))
    assert [texts(record) for record in records] == [["good", "bad"]] * 2
    assert records[0].prompt == (Message("user", "Hi"),)
    assert [response.score for response in records[0].responses] == [8.0, 5.0]
    assert not dropped


def test_pairs_must_share_the_prompt(write_jsonl):
    records, dropped = read("ultrafeedback", write_jsonl(pair("a", "b", question="Other"), pair("a", " ")))
    assert not records
    assert [drop.reason for drop in dropped] == ["chosen and rejected have different prompts", "empty response"]
