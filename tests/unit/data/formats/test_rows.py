# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from nemo_mcpo.data.formats import rows
from nemo_mcpo.data.formats.rows import content_hash, count_rows, read_rows
from nemo_mcpo.errors import DataError

ROWS = [{"prompt": f"p{i}", "answers": [{"answer": "a", "rank": 1.0}]} for i in range(600)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise ConnectionRefusedError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def save_parquet(path: Path, rows: list[dict]) -> str:
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=250)
    return str(path)


def test_parquet_rows_in_order_with_their_numbers(tmp_path):
    path = save_parquet(tmp_path / "d.parquet", ROWS)
    found = list(read_rows(path))
    assert [row for _, row in found] == ROWS
    assert found[0][0] == f"{path}:1" and found[-1][0] == f"{path}:600"
    assert count_rows(path) == 600


def test_saved_directory(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "d")
    assert [row for _, row in read_rows(str(tmp_path / "d"))] == ROWS
    assert count_rows(str(tmp_path / "d")) == 600


def test_saved_directory_of_splits(tmp_path):
    splits = {"train": datasets.Dataset.from_list(ROWS[:3]), "test": datasets.Dataset.from_list(ROWS[3:5])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "d")
    assert [row for _, row in read_rows(str(tmp_path / "d"))] == ROWS[:3]
    assert [row for _, row in read_rows(str(tmp_path / "d" / "test"))] == ROWS[3:5]
    other = {"a": splits["train"], "b": splits["test"]}
    datasets.DatasetDict(other).save_to_disk(tmp_path / "other")
    with pytest.raises(DataError, match="none is named train") as caught:
        list(read_rows(str(tmp_path / "other")))
    assert (caught.value.where, caught.value.got) == (str(tmp_path / "other"), ["a", "b"])


@pytest.mark.parametrize("name", ["absent.jsonl", "absent.parquet", "folder/absent.jsonl", "folder/absent"])
def test_missing_files(tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    for data in (name, str(tmp_path / name)):
        with pytest.raises(DataError, match="no such file") as caught:
            list(read_rows(data))
        assert caught.value.where == data and caught.value.fix


def test_unusable_files(tmp_path):
    (tmp_path / "d.csv").write_text("a,b")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "bad.parquet").write_text("no parquet")
    for name, message in [
        ("d.csv", "unknown file type"),
        ("empty.jsonl", "the file is empty"),
        ("bad.parquet", "not a readable parquet file"),
        ("", "written by save_to_disk"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            list(read_rows(str(tmp_path / name)))
        assert str(caught.value.where) == str(tmp_path / name)


def test_a_damaged_parquet_file(tmp_path):
    path = Path(save_parquet(tmp_path / "d.parquet", ROWS))
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable parquet") as caught:
        list(read_rows(str(path)))
    assert str(caught.value.where) == str(path)


def test_a_hub_name_without_network():
    with pytest.raises(DataError, match="nor a reachable hub dataset") as caught:
        list(read_rows("some-owner/some-name"))
    assert caught.value.where == "some-owner/some-name" and caught.value.got


def test_content_hash_depends_on_the_bytes(tmp_path, write_jsonl):
    one, same, other = (write_jsonl({"a": a}, name=f"{n}.jsonl") for n, a in enumerate((1, 1, 2)))
    assert content_hash(one) == content_hash(same) != content_hash(other)
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "d")
    before = content_hash(str(tmp_path / "d"))
    next((tmp_path / "d").glob("*.arrow")).write_bytes(b"other")
    assert content_hash(str(tmp_path / "d")) != before


def test_hub_names_and_splits(monkeypatch):
    loaded: list[dict] = []

    def load_dataset(name: str, **arguments: object) -> dict[str, list[dict]]:
        loaded.append({"name": name, **arguments})
        return {"train": ROWS[:2], "test": ROWS[2:3]}

    monkeypatch.setattr(rows, "_hub_revision", lambda data: "0123abc")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(read_rows("owner/name")) == [("owner/name:1", ROWS[0]), ("owner/name:2", ROWS[1])]
    assert list(read_rows("owner/name:test")) == [("owner/name:test:1", ROWS[2])]
    assert content_hash("owner/name") == "0123abc"
    assert loaded[0] == {"name": "owner/name", "streaming": True, "revision": "0123abc"}
    with pytest.raises(DataError, match="no such split") as caught:
        list(read_rows("owner/name:dev"))
    assert (caught.value.where, caught.value.got) == ("owner/name:dev", "dev")
