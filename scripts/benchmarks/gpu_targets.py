# SPDX-License-Identifier: Apache-2.0
"""Targets of the checks in ``gpu_check``, and their results as lines of one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.measure import Spread

LARGEST_RATIO = {
    ("none", 250, 250): 1.25,
    ("none", 121, 288): 1.48,
    ("full", 250, 250): 1.02,
    ("full", 121, 288): 1.25,
}
"""(recompute, prompt, completion) -> largest ratio MC-PO / plain DPO in seconds per step, with L = 5 and M = 1."""
LEAST_MFU = 0.45
"""Smallest MFU of a plain DPO step in bf16 without recompute."""
LEAST_SPEEDUP = 1.5
"""Smallest ratio of TRL's time to ours, for a DPO step on the same tokens."""
LARGEST_PEAK = 0.7
"""Largest ratio of our peak memory to TRL's, for the same step."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A line of the table; ``reached`` is None without a target."""

    what: str
    value: str
    target: str = ""
    reached: bool | None = None


def measurements(name: str, reports: Sequence[dict]) -> list[Measurement]:
    """Return the lines of a check; its kind is the part of its name before the first ``-``."""
    of_kind = KINDS[name.partition("-")[0]]
    return [line for report in reports for line in of_kind(name, report)]


def _tests(name: str, counts: dict) -> Iterator[Measurement]:
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    value = f"{passed} passed, {failed} failed, {counts['skipped']} skipped"
    yield Measurement("tests on a GPU", value, "none fail, some pass", failed == 0 and passed > 0)


def _attention(name: str, report: dict) -> Iterator[Measurement]:
    for backend, seconds in report["forward_backward"].items():
        forward = Spread(**report["forward"][backend])
        value = f"{1e3 * forward.median:.2f}, {Spread(**seconds).times(1e3)}"
        yield Measurement(f"attention {backend}, {_shape(report)}: forward, and with backward, ms", value)


def _head(name: str, report: dict) -> Iterator[Measurement]:
    for kind in ("chunked", "full"):
        share = 100 * report[kind]["extra_bytes"] / report["full_logits_bytes"]
        value = f"{1e3 * report[kind]['seconds']:.1f} ms, {report[kind]['extra_bytes'] / 1e9:.2f} GB ({share:.0f} %)"
        yield Measurement(f"log-prob head, {kind} logits: time, and memory beside the logits' own", value)


def _step(name: str, report: dict) -> Iterator[Measurement]:
    where = f"{name.partition('-')[2]}, {_shape(report)}"
    spread = Spread(**report["ratio"])
    size = (report["recompute"], round(report["prompt_length"]), round(report["completion_length"]))
    largest = LARGEST_RATIO.get(size)
    reached = None if largest is None else spread.median <= largest
    yield Measurement(f"MC-PO / plain DPO, {where}", str(spread), f"<= {largest}" if largest else "", reached)
    mfu, has_target = report["plain_dpo_mfu"], report["recompute"] == "none"
    yield Measurement(
        f"MFU of plain DPO, bf16's peak, {where}",
        "unknown: no peak known for this device" if mfu is None else f"{100 * mfu:.1f} %",
        f">= {100 * LEAST_MFU:.0f} %" if has_target else "",
        mfu >= LEAST_MFU if has_target and mfu is not None else None,
    )
    peaks = f"{report['plain_dpo_peak_gigabytes']:.1f}, {report['mcpo_peak_gigabytes']:.1f}"
    yield Measurement(f"peak memory of plain DPO and MC-PO, GB, {where}", peaks)


def _fp8(name: str, report: dict) -> Iterator[Measurement]:
    """Like a step, but without targets: those are for bf16."""
    for line in _step(name, report):
        yield Measurement(f"FP8: {line.what}", line.value)


def _profile(name: str, report: dict) -> Iterator[Measurement]:
    for phase, found in report["phases"].items():
        share = 100 * found["seconds"] / report["seconds"]
        what = f"{phase} of a step, {name.partition('-')[2]}, {_shape(report)}"
        yield Measurement(what, f"{1e3 * found['seconds']:.0f} ms, {share:.0f} %; {found['limit']}")


def _optimizer(name: str, report: dict) -> Iterator[Measurement]:
    update, step = report["phases"]["optimizer"]["seconds"], report["seconds"]
    value = f"{1e3 * update:.0f} ms of {1e3 * step:.0f} ms per step; peak {report['peak_gigabytes']:.1f} GB"
    keys = ", ".join(f"{key}={setting}" for key, setting in report["optimizer"].items())
    yield Measurement(f"update of {name.split('-')[1]}, {keys}", value)


def _peer(name: str, report: dict) -> Iterator[Measurement]:
    spread = Spread(**report["shared_speedup"])
    yield Measurement("TRL's time / ours, DPO", str(spread), f">= {LEAST_SPEEDUP}", spread.median >= LEAST_SPEEDUP)
    if "trl_peak_gigabytes" in report:
        ours, theirs = report["shared_peak_gigabytes"], report["trl_peak_gigabytes"]
        value = f"{ours / theirs:.2f} ({ours:.1f} and {theirs:.1f} GB)"
        yield Measurement("our peak memory / TRL's", value, f"<= {LARGEST_PEAK}", ours / theirs <= LARGEST_PEAK)


def _curve(name: str, report: dict) -> Iterator[Measurement]:
    value = f"{report['bf16_distance']:.4f} nats per step; another seed: {report['seed_distance']:.4f}"
    what = f"loss in bf16 against float32, {report['steps']} steps"
    yield Measurement(what, value, "<= another seed", report["within_noise"])


KINDS: dict[str, Callable[[str, dict], Iterator[Measurement]]] = {
    "tests": _tests,
    "attention": _attention,
    "head": _head,
    "step": _step,
    "fp8": _fp8,
    "profile": _profile,
    "optimizer": _optimizer,
    "peer": _peer,
    "curve": _curve,
}


def table(lines: Sequence[Measurement]) -> str:
    """Format the lines as a Markdown table."""
    verdicts = {True: "reached", False: "missed", None: ""}
    cells = [("measurement", "value", "target", ""), ("---",) * 4]
    cells += [(line.what, line.value, line.target, verdicts[line.reached]) for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _shape(report: dict) -> str:
    return f"P{report['prompt_length']:.0f} C{report['completion_length']:.0f}"
