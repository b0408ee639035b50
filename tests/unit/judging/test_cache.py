# SPDX-License-Identifier: Apache-2.0
"""Verdicts are found again by the question, however the process ended."""

from __future__ import annotations

import pytest

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.judging.cache import VerdictCache


def test_lookup_by_question(tmp_path):
    cache = VerdictCache(tmp_path)
    assert cache.get("judge", "a", "b") is None
    cache.put("first", "judge", "a", "b", reply="A, since …")
    assert cache.get("judge", "a", "b") == "first"
    assert cache.get("judge", "b", "a") is None
    assert cache.get("other judge", "a", "b") is None
    assert "since" in (tmp_path / "verdicts-00000.jsonl").read_text()


def test_another_run_reads_it_and_writes_its_own(tmp_path):
    first = VerdictCache(tmp_path)
    first.put(0.25, "ü", "a")
    second = VerdictCache(tmp_path)  # while the first one is still writing
    assert second.get("ü", "a") == 0.25
    second.put(0.5, "ü", "b")
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["verdicts-00000.jsonl", "verdicts-00001.jsonl"]
    third = VerdictCache(tmp_path)
    assert (third.get("ü", "a"), third.get("ü", "b"), len(third)) == (0.25, 0.5, 2)


def test_a_torn_line_is_asked_for_again(tmp_path):
    (tmp_path / "verdicts-00000.jsonl").write_text('{"key": "k", "value": 1}\n{"key": "l", "va')
    assert len(VerdictCache(tmp_path)) == 1


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "verdicts-00000.jsonl").write_text('{"key": "k", "value": 1}\nrubbish\n')
    with pytest.raises(RolloutError, match=r"verdicts-00000.jsonl:2: not a verdict"):
        VerdictCache(tmp_path)
