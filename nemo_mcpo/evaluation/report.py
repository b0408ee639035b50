# SPDX-License-Identifier: Apache-2.0
"""Results of several policies on the same held-out prompts: a table for people, a summary for programs.

{"sft": {"exact_match": {"mean", "low", "high"}, "preference_accuracy": {…}}, "mcpo": {…}, "onmcpo": {…}, "seconds": …}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from nemo_mcpo.evaluation.intervals import Interval


@dataclass(frozen=True, slots=True)
class Scores:
    """Results of one policy: rates (0 to 1) with 95 % intervals."""

    exact_match: Interval
    preference_accuracy: Interval


POLICIES = {"sft": "SFT", "mcpo": "MC-PO", "onmcpo": "OnMC-PO"}
"""Names of the policies in files, and in tables for people."""


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out prompt and the answer of each policy, by the policy's name in files."""

    question: str
    right: str
    answers: Mapping[str, str]


def summary(scores: Mapping[str, Scores], seconds: float) -> dict[str, object]:
    """The content of ``summary.json``; ``seconds`` is the time of the whole quickstart."""
    return {**{policy: asdict(own) for policy, own in scores.items()}, "seconds": round(seconds, 1)}


def score_table(scores: Mapping[str, Scores]) -> str:
    """A table with one line per policy: rates in percent, with intervals."""
    fields = {"exact match": "exact_match", "preference accuracy": "preference_accuracy"}
    rows = [f"{'':<10}" + "".join(f"{title:<24}" for title in fields)]
    for policy, own in scores.items():
        rates = "".join(f"{_percent(getattr(own, name)):<24}" for name in fields.values())
        rows.append(f"{POLICIES[policy]:<10}{rates}")
    return "\n".join(row.rstrip() for row in rows)


def example_lines(example: Example) -> str:
    """A prompt, the right answer, and the policies' answers."""
    answers = {"right": example.right} | {POLICIES[policy]: text for policy, text in example.answers.items()}
    return "\n".join([example.question, *(f"  {name:<8} {text}" for name, text in answers.items())])


def _percent(rate: Interval) -> str:
    return f"{100 * rate.mean:5.1f} %  ({100 * rate.low:.1f}–{100 * rate.high:.1f})"
