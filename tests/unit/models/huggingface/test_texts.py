# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from nemo_mcpo.errors import DataError
from nemo_mcpo.models.huggingface.texts import read_texts

ROWS = [
    {"prompt": "p", "answers": [{"answer": "a", "model": "m", "rank": 1.0}], "source": ["s"]},
    {"prompt": "q", "answers": [{"answer": "b", "model": "m", "rank": 2.0}], "source": ["s"]},
]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "json"])
def test_every_schema_gives_its_texts_and_no_labels(tmp_path, suffix):
    file = tmp_path / f"data.{suffix}"
    if suffix == "parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), file)
    else:
        file.write_text(json.dumps(ROWS) if suffix == "json" else "\n\n".join(json.dumps(row) for row in ROWS))
    assert list(read_texts(file)) == ["p", "a", "q", "b"]


def test_plain_text(tmp_path):
    (tmp_path / "data.txt").write_text("one\ntwo")
    assert list(read_texts(tmp_path / "data.txt")) == ["one\n", "two"]


def test_damaged_parquet(tmp_path):
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot read the parquet file"):
        list(read_texts(tmp_path / "data.parquet"))
