# SPDX-License-Identifier: Apache-2.0
"""Two policies on the same held-out prompts: a table for people, a summary for programs.

{"sft": {"exact_match": {"mean", "low", "high"}, "preference_accuracy": {…}}, "mcpo": {…}, "seconds": …}
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from nemo_mcpo.evaluation.intervals import Interval


@dataclass(frozen=True, slots=True)
class Scores:
    """What one policy reached; rates (0..1) with 95 % intervals."""

    exact_match: Interval
    preference_accuracy: Interval


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out prompt and what each policy answers."""

    question: str
    right: str
    before: str
    after: str


def summary(before: Scores, after: Scores, seconds: float) -> dict[str, object]:
    """The content of ``summary.json``; ``seconds`` of the whole quickstart."""
    return {"sft": asdict(before), "mcpo": asdict(after), "seconds": round(seconds, 1)}


def score_table(before: Scores, after: Scores) -> str:
    """Before and after, in percent, with intervals."""
    rows = [f"{'':<26}{'after SFT':<24}after MC-PO"]
    for title, field in (("exact match", "exact_match"), ("preference accuracy", "preference_accuracy")):
        rows.append(f"{title:<26}{_percent(getattr(before, field)):<24}{_percent(getattr(after, field))}".rstrip())
    return "\n".join(rows)


def example_lines(example: Example) -> str:
    """A prompt, the right answer, and both answers."""
    return f"{example.question}\n  right  {example.right}\n  SFT    {example.before}\n  MC-PO  {example.after}"


def _percent(rate: Interval) -> str:
    return f"{100 * rate.mean:5.1f} %  ({100 * rate.low:.1f}–{100 * rate.high:.1f})"
