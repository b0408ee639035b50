# SPDX-License-Identifier: Apache-2.0
"""Measures times with their spread, and peaks of memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, minimum and maximum of a few measurements.

    >>> str(Spread.of([1.0, 3.0, 1.25]))
    '1.25 (1.00-3.00)'
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"

    def times(self, factor: float) -> Spread:
        """Return the spread in another unit."""
        return Spread(factor * self.median, factor * self.low, factor * self.high)

    def as_dict(self) -> dict[str, float]:
        """Return the spread for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds and peak memory in bytes of one call (resident memory on a CPU, allocated memory on a GPU)."""

    seconds: float
    peak_bytes: int


def measure(call: Callable[[], object]) -> Measured:
    """Run ``call`` once and measure it."""
    reset_peak()
    started = time.perf_counter()
    call()
    synchronize()
    return Measured(time.perf_counter() - started, peak_bytes())


def synchronize() -> None:
    """Wait for the GPU, if there is one, to finish all work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name() -> str:
    """Return CUDA's name of the GPU, or ``cpu``."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def allocated_bytes() -> int | None:
    """Return the bytes of all tensors on the GPU; None on a CPU, where a process's memory cannot be attributed."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else None


def interleave(programs: dict[str, Callable[[], object]], steps: int) -> dict[str, list[Measured]]:
    """Warm up every program, then run all in turns ``steps`` times, so that disturbances affect all of them."""
    for program in programs.values():
        program()
    measured: dict[str, list[Measured]] = {name: [] for name in programs}
    for _ in range(steps):
        for name, program in programs.items():
            measured[name].append(measure(program))
    return measured


def ratio(numerator: Sequence[Measured], denominator: Sequence[Measured]) -> Spread:
    """Return the ratio of seconds, turn by turn."""
    return Spread.of([n.seconds / d.seconds for n, d in zip(numerator, denominator, strict=True)])


def reset_peak() -> None:
    """Reset the peak memory."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return
    reset = Path("/proc/self/clear_refs")  # Linux only; elsewhere the peak covers the whole process
    if reset.exists():
        reset.write_text("5")


def peak_bytes() -> int:
    """Return the peak memory since ``reset_peak``; see ``Measured``."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
