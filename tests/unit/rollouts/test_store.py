# SPDX-License-Identifier: Apache-2.0
"""Samples are kept: after a kill at any byte, on a full disk, and with other writers."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from nemo_mcpo.errors import RolloutError, StorageError
from nemo_mcpo.rollouts.samples import Sample, SampleKey
from nemo_mcpo.rollouts.store import SampleStore, read_complete
from nemo_mcpo.storage import append_log as module
from tests.support.full_disk import full_disk
from tests.unit.rollouts.samples import sample

MANIFEST = {"checkpoint": "abc", "max_tokens": 64}
SHARD = "samples-00000.jsonl"


@pytest.fixture(autouse=True)
def no_locks(monkeypatch):
    """Locks last as long as the process, but these tests open the same store several times."""
    monkeypatch.setattr(module, "lock_for_this_process", lambda path, patience: None)


def test_samples_come_back(tmp_path):
    store = SampleStore(tmp_path, MANIFEST)
    odd = Sample(SampleKey(2, 2**63 + 11, 0.8, 1), 'ü "quoted"\nand \u2028 more', num_tokens=9, finished=False)
    store.append([sample(1), odd])
    store.append([sample(2)])
    for opened in (store, SampleStore(tmp_path, MANIFEST)):
        assert len(opened) == 3 and odd.key in opened and sample(3).key not in opened
        assert opened[odd.key] == odd
        assert opened[sample(2).key] == sample(2)
    with pytest.raises(KeyError):
        store[sample(3).key]


def test_tokens_come_back_and_lines_without_them_too(tmp_path):
    exact = replace(sample(1), tokens=(5, 70_000, 5))
    counted = replace(sample(2), counted=9)
    SampleStore(tmp_path, MANIFEST).append([exact, counted])
    # As stored by a version that knew only texts.
    old = {"segment": 0, "prompt_id": 3, "temperature": 0.6, "sample": 0, "text": "four", "num_tokens": 4}
    with open(tmp_path / SHARD, "a") as file:
        file.write(json.dumps(old | {"finished": True, "problem": ""}) + "\n")
    store = SampleStore(tmp_path, MANIFEST)
    assert [store[one.key] for one in (exact, counted, sample(3))] == [exact, counted, sample(3)]
    assert type(store[exact.key].tokens) is tuple
    store.finish([sample(number).key for number in (1, 2, 3)])
    assert list(read_complete(tmp_path)) == [exact, counted, sample(3)]


def test_only_their_owner_reads_samples(tmp_path, monkeypatch):
    monkeypatch.delenv("NEMO_MCPO_FILE_MODE", raising=False)
    store = SampleStore(tmp_path, MANIFEST)
    store.append([sample(1)])
    store.finish([sample(1).key])
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_kill_at_any_byte_of_the_last_batch(tmp_path):
    store = SampleStore(tmp_path, MANIFEST)
    store.append([sample(1), sample(2)])
    before = (tmp_path / SHARD).read_bytes()
    store.append([sample(3, "fünf")])
    after = (tmp_path / SHARD).read_bytes()
    for stop in range(len(before), len(after)):
        (tmp_path / SHARD).write_bytes(after[:stop])
        again = SampleStore(tmp_path, MANIFEST)
        assert len(again) == 2 and sample(3).key not in again
        again.append([sample(3, "fünf")])
        assert (tmp_path / SHARD).read_bytes() == after


def test_the_last_line_of_a_key_counts(tmp_path):
    store = SampleStore(tmp_path, MANIFEST)
    store.append([sample(1, "old"), sample(2)])
    store.append([sample(1, "new")])
    assert SampleStore(tmp_path, MANIFEST)[sample(1).key].text == store[sample(1).key].text == "new"
    assert len(store) == 2


def test_writers_see_what_the_others_wrote_before(tmp_path):
    SampleStore(tmp_path, MANIFEST, writer=0).append([sample(1)])
    second = SampleStore(tmp_path, MANIFEST, writer=1)
    assert sample(1).key in second
    second.append([sample(2)])
    # A line that the other is about to finish is neither read nor cut.
    with open(tmp_path / "samples-00001.jsonl", "ab") as file:
        file.write(b'{"segment": 0, "prom')
    first = SampleStore(tmp_path, MANIFEST, writer=0)
    assert len(first) == 2 and first[sample(2).key] == sample(2)
    assert (tmp_path / "samples-00001.jsonl").read_bytes().endswith(b"prom")


def test_complete_is_sorted_and_atomic(tmp_path):
    store = SampleStore(tmp_path, MANIFEST)
    with pytest.raises(RolloutError, match="incomplete"):
        read_complete(tmp_path)
    store.append([sample(2), sample(1, segment=1), sample(1), sample(3)])
    with pytest.raises(KeyError):
        store.finish([sample(1).key, sample(9).key])
    assert not (tmp_path / "complete.jsonl").exists()
    store.finish([sample(2).key, sample(1, segment=1).key, sample(1).key])
    assert list(read_complete(tmp_path)) == [sample(1), sample(2), sample(1, segment=1)]


@pytest.mark.parametrize(("name", "value"), [("checkpoint", "def"), ("max_tokens", 65), ("seed", 1)])
def test_a_store_with_another_manifest_is_refused(tmp_path, name, value):
    SampleStore(tmp_path, MANIFEST).append([sample(1)])
    with pytest.raises(RolloutError, match=f"another {name}") as caught:
        SampleStore(tmp_path, MANIFEST | {name: value})
    assert caught.value.got == value
    assert json.loads((tmp_path / "manifest.json").read_text()) == MANIFEST


def test_a_broken_line_is_named(tmp_path):
    store = SampleStore(tmp_path, MANIFEST)
    store.append([sample(1), sample(2)])
    content = (tmp_path / SHARD).read_text().splitlines()
    for broken in ("{}", "[1]", "not json", '{"segment": 0}'):
        (tmp_path / SHARD).write_text("\n".join([content[0], broken, content[1]]) + "\n")
        with pytest.raises(RolloutError, match="not a sample") as caught:
            SampleStore(tmp_path, MANIFEST)
        assert str(caught.value.where).endswith(f"{SHARD}:2") and "generated again" in caught.value.fix


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path, monkeypatch):
    store = SampleStore(tmp_path, MANIFEST)
    store.append([sample(1)])
    content = (tmp_path / SHARD).read_bytes()

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_disk)
        with pytest.raises(StorageError) as caught:
            store.append([sample(2)])
    assert "No space left on device" in str(caught.value.got) and "free disk space" in caught.value.fix
    assert (tmp_path / SHARD).read_bytes() == content
    assert sample(2).key not in store
    store.append([sample(2)])
    assert len(SampleStore(tmp_path, MANIFEST)) == 2
