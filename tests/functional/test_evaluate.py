# SPDX-License-Identifier: Apache-2.0
"""scripts/evaluate.py: the win rate of one model against another."""

from __future__ import annotations

import json

import pytest

from nemo_mcpo.models.huggingface.tiny import make_tiny_model
from tests.support.configs import ROOT
from tests.support.launch import fork, run
from tests.support.online import online_overrides

pytestmark = pytest.mark.functional
EVALUATE = ROOT / "scripts" / "evaluate.py"


def test_the_judge_decides(inputs, tmp_path):
    make_tiny_model(inputs / "data.jsonl", tmp_path / "other", "1m", seed=2, vocab_size=300)
    out, held_out = tmp_path / "out", inputs / "data.jsonl"
    models = ["--policy", str(inputs / "model"), "--baseline", str(tmp_path / "other"), "--out", str(out)]
    keys = online_overrides(inputs, tmp_path / "run", model__data__validation=held_out)
    done = run(EVALUATE, [*models, *keys])
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((out / "win_rate.json").read_text())
    assert f"win rate {result['win_rate']['mean']:.1%} (" in done.stdout
    stores = [out / "answers" / name / "complete.jsonl" for name in ("policy", "baseline")]
    ours, theirs = ([json.loads(line) for line in store.read_text().splitlines()] for store in stores)
    assert len(ours) == len(theirs) == 24
    lengths = [(len(a["text"]), len(b["text"])) for a, b in zip(ours, theirs, strict=True)]
    assert result["wins"] == sum(a > b for a, b in lengths)  # the rule prefers the longer text
    assert result["losses"] == sum(a < b for a, b in lengths)
    assert result["unanswered"] == result["failures"] == 0

    refused = fork(EVALUATE, [*models, *online_overrides(inputs, tmp_path / "run")])
    assert refused.returncode == 2 and "model.data.validation: no held-out prompts" in refused.stderr
