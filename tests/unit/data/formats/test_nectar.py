# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from nemo_mcpo.data.formats.nectar import parse_dialogue
from nemo_mcpo.data.formats.records import BadRecordError
from nemo_mcpo.errors import DataError
from nemo_mcpo.records import Message
from tests.unit.data.formats.reading import read, texts


def record(prompt: str = "\n\nHuman: Hi\n\nAssistant: ", ranks: tuple[float, ...] = (3, 1, 2)) -> dict:
    return {
        "prompt": prompt,
        "answers": [{"answer": f"answer {rank:g}", "model": "m", "rank": rank} for rank in ranks],
    }


def test_all_file_types_give_the_same_records(tmp_path, write_jsonl):
    rows = [record(), record("\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant:", (1.0, 2.0, 3.0, 4.0))]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    (tmp_path / "d.json").write_text(str(rows).replace("'", '"'))
    files = [write_jsonl(*rows), *(str(tmp_path / name) for name in ("d.parquet", "saved", "d.json"))]
    found = [[(r.prompt, r.responses) for r in read("nectar", file, drop_ranks=(2,))[0]] for file in files]
    assert found[0] == found[1] == found[2] == found[3]
    assert [[response.text for response in responses] for _, responses in found[0]] == [
        ["answer 1", "answer 3"],
        ["answer 1", "answer 3", "answer 4"],
    ]


def test_dialogue_turns():
    text = (
        "\n\nHuman: Tell me: what is\n\n1 + 1? \n\nAssistant: 2. \n\nHuman: Sure?\nAssistant: no turn\n\nAssistant: "
    )
    assert parse_dialogue(text) == (
        Message("user", "Tell me: what is\n\n1 + 1?"),
        Message("assistant", "2."),
        Message("user", "Sure?\nAssistant: no turn"),
    )
    assert parse_dialogue("Human: Hi") == parse_dialogue("\n\nHuman:Hi\n\nAssistant:") == (Message("user", "Hi"),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty prompt"),
        (" \n", "empty prompt"),
        ("\n\nHuman: \n\nAssistant: ", "empty prompt"),
        ("\n\nAssistant: ", "empty prompt"),
        ("What is this?", "prompt is not in Human/Assistant turns"),
        ("Be kind.\n\nHuman: Hi\n\nAssistant:", "prompt is not in Human/Assistant turns"),
        ("\n\nHuman: Hi\n\nAssistant: I am", "prompt does not end with a user turn"),
    ],
)
def test_bad_prompts(text, reason):
    with pytest.raises(BadRecordError) as caught:
        parse_dialogue(text)
    assert caught.value.reason == reason


def test_bad_records_are_dropped_with_their_line(write_jsonl):
    wrong = [{"prompt": 3, "answers": []}, {"prompt": "\n\nHuman: Hi"}, {"prompt": "\n\nHuman: Hi", "answers": [1]}]
    path = write_jsonl(record(), record(""), record(ranks=(1, 1)), record(ranks=()), *wrong, record())
    records, dropped = read("nectar", path)
    assert [r.source for r in records] == [f"{path}:1", f"{path}:8"]
    assert texts(records[0]) == ["answer 1", "answer 2", "answer 3"]
    assert [(d.source, d.reason) for d in dropped] == [
        (f"{path}:2", "empty prompt"),
        (f"{path}:3", "duplicate ranks"),
        (f"{path}:4", "no responses"),
        *((f"{path}:{line}", "does not match the format's structure") for line in (5, 6, 7)),
    ]


def test_wrong_columns_raise_at_once(write_jsonl):
    path = write_jsonl({"instruction": "Hi", "completions": []})
    with pytest.raises(DataError, match="columns do not fit the format") as caught:
        read("nectar", path)
    assert caught.value.where == f"{path}:1" and "answers, prompt" in str(caught.value)
