# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_mcpo.data.formats import json_rows
from nemo_mcpo.data.formats.json_rows import read_json_rows
from nemo_mcpo.errors import DataError


def rows(path: Path, content: str | bytes) -> list[tuple[int, dict]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_json_rows(str(path)))


def test_lines_are_counted_with_blank_ones(tmp_path):
    content = '\n{"a": 1}\n\n  \n{"a": "x\\ry\u2028z"}\r\n{"a": 3}'
    assert [(line, row["a"]) for line, row in rows(tmp_path / "f.jsonl", content)] == [
        (2, 1),
        (5, "x\ry\u2028z"),
        (6, 3),
    ]


def test_byte_order_mark(tmp_path):
    assert rows(tmp_path / "f.jsonl", b'\xef\xbb\xbf{"a": 1}\n') == [(1, {"a": 1})]
    assert rows(tmp_path / "f.json", b'\xef\xbb\xbf[{"a": 1}]\n') == [(1, {"a": 1})]


def test_not_json_names_the_line(tmp_path):
    path = tmp_path / "f.jsonl"
    with pytest.raises(DataError) as caught:
        rows(path, '{"a": 1}\n{"a": 2}\n{"a": \n{"a": 4}\n')
    assert caught.value.where == f"{path}:3" and caught.value.fix


def test_not_utf8_names_the_line(tmp_path):
    path = tmp_path / "f.jsonl"
    with pytest.raises(DataError, match="UTF-8") as caught:
        rows(path, b'{"a": 1}\n{"a": "\xff"}\n')
    assert caught.value.where == f"{path}:2"


@pytest.mark.parametrize("content", ["1\n", '"text"\n', "[1]", "null\n"])
def test_rows_must_be_objects(tmp_path, content):
    with pytest.raises(DataError, match="not a JSON object"):
        rows(tmp_path / "f.json", content)


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_of_any_layout_and_block_size(tmp_path, monkeypatch, block, indent):
    monkeypatch.setattr(json_rows, "_BLOCK", block)
    values = [{"a": [1, 2.5, None, True]}, {"b": 'quote " and \\ and ü and ]'}, {}, {"c": {"d": "\n"}}]
    text = "\n" + json.dumps(values, indent=indent) + "\n"
    found = rows(tmp_path / "f.json", text)
    assert [row for _, row in found] == values
    starts = [2, 2, 2, 2] if indent is None else [3, 11, 14, 15]
    assert [line for line, _ in found] == starts


def test_an_empty_array_has_no_rows(tmp_path):
    assert rows(tmp_path / "f.json", " [ ]") == []


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('[{"a": 1},\n{"a": oops},\n{"a": 3}]', 2),
        ('[{"a": 1}\n{"a": 2}]', 2),
        ('[{"a": 1},\n{"a": 2}\n', 3),
        ('[{"a": 1},\n{"a": "never closed\n', 2),
        ('[{"a": 1},\n]', 2),
        ("[", 1),
    ],
)
def test_broken_arrays_name_the_line(tmp_path, content, line):
    path = tmp_path / "f.json"
    with pytest.raises(DataError) as caught:
        rows(path, content)
    assert caught.value.where == f"{path}:{line}"
