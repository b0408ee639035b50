# SPDX-License-Identifier: Apache-2.0
import json

from nemo_mcpo.evaluation.intervals import Interval
from nemo_mcpo.evaluation.report import Example, Scores, example_lines, score_table, summary

BEFORE = Scores(Interval(0.303, 0.268, 0.341), Interval(0.844, 0.832, 0.856))
SCORES = {"sft": BEFORE, "mcpo": Scores(Interval(0.915, 0.89, 0.935), Interval(0.999, 0.997, 1.0))}


def test_summary_has_exactly_this_form():
    content = json.loads(json.dumps(summary(SCORES, 312.345)))
    rate = {"mean": 0.303, "low": 0.268, "high": 0.341}
    assert list(content) == ["sft", "mcpo", "seconds"]
    assert content["sft"]["exact_match"] == rate
    assert content["seconds"] == 312.3
    for policy in ("sft", "mcpo"):
        assert list(content[policy]) == ["exact_match", "preference_accuracy"]
        assert all(list(values) == ["mean", "low", "high"] for values in content[policy].values())


def test_table():
    assert score_table(SCORES).splitlines() == [
        "          exact match             preference accuracy",
        "SFT        30.3 %  (26.8–34.1)     84.4 %  (83.2–85.6)",
        "MC-PO      91.5 %  (89.0–93.5)     99.9 %  (99.7–100.0)",
    ]


def test_example():
    lines = example_lines(Example("Q", "a", {"sft": "b", "onmcpo": "c"})).splitlines()
    assert lines == ["Q", "  right    a", "  SFT      b", "  OnMC-PO  c"]
