# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace

import pytest

from nemo_mcpo.algorithms import progress
from nemo_mcpo.algorithms.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


def test_rates_are_those_since_the_start(clock, capsys):
    with Progress(num_steps=10, first_step=4) as bar:
        for seconds, tokens in ((102.0, 300), (104.0, 500)):
            clock.seconds = seconds
            bar.update({"loss": 0.5, "tokens": tokens}, prompts=16)
        shown = bar._bar.postfix
        assert (bar._bar.n, bar._bar.total) == (6, 10)
    assert shown == f"loss 0.5000, {32 / 4:.1f} prompts/s, {800 / 4:.0f} tokens/s"
    assert "6/10" in capsys.readouterr().err


def test_only_rank_zero_shows_it(clock, monkeypatch, capsys):
    monkeypatch.setattr(progress, "is_rank_zero", lambda: False)
    with Progress(num_steps=10, first_step=0) as bar:
        clock.seconds += 1
        bar.update({"loss": 0.5, "tokens": 1}, prompts=1)
    assert capsys.readouterr().err == ""
