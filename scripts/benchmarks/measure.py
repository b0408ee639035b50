# SPDX-License-Identifier: Apache-2.0
"""Times with their spread, and peaks of memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of a few measurements.

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
        """In another unit."""
        return Spread(factor * self.median, factor * self.low, factor * self.high)

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Measured:
    """One call: seconds, and the highest memory use during it in bytes (resident on a CPU, allocated on a GPU)."""

    seconds: float
    peak_bytes: int


def measure(call: Callable[[], object]) -> Measured:
    """Run ``call`` once."""
    reset_peak()
    started = time.perf_counter()
    call()
    synchronize()
    return Measured(time.perf_counter() - started, peak_bytes())


def synchronize() -> None:
    """Wait for the GPU's last kernel, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name() -> str:
    """CUDA's name of the GPU, or ``cpu``."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def allocated_bytes() -> int | None:
    """What tensors hold on the GPU now; None without one, where nobody can tell whose the memory of a process is."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else None


def interleave(programs: dict[str, Callable[[], object]], steps: int) -> dict[str, list[Measured]]:
    """Warm every program up, then run them in turns ``steps`` times: what disturbs one disturbs the others too."""
    for program in programs.values():
        program()
    measured: dict[str, list[Measured]] = {name: [] for name in programs}
    for _ in range(steps):
        for name, program in programs.items():
            measured[name].append(measure(program))
    return measured


def ratio(numerator: Sequence[Measured], denominator: Sequence[Measured]) -> Spread:
    """Of seconds, turn by turn."""
    return Spread.of([n.seconds / d.seconds for n, d in zip(numerator, denominator, strict=True)])


def reset_peak() -> None:
    """Forget the highest memory use so far."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return
    reset = Path("/proc/self/clear_refs")  # Linux; elsewhere the peak is that of the whole process
    if reset.exists():
        reset.write_text("5")


def peak_bytes() -> int:
    """The highest memory use since ``reset_peak``; see ``Measured``."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
