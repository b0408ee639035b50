# SPDX-License-Identifier: Apache-2.0
"""``doctor``: reports what this machine has, what that enables, and how to add what is missing.

Needs no GPU and imports nothing heavy. Exit code 0 if the base stack works, else 1. Try ``python scripts/doctor.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from nemo_mcpo.config.fp8 import FP8_CAPABILITY
from nemo_mcpo.platform.gpu_kernels import gpu_kernel_rows
from nemo_mcpo.platform.packages import package_rows
from nemo_mcpo.platform.report import Row, failures, render
from nemo_mcpo.platform.requirements import requirement_rows

BF16_CAPABILITY = 8.0
MIB_PER_GIB = 1024
SERVERS = {
    "trtllm-serve": "TensorRT-LLM servers, the default for rollouts and judges",
    "vllm": "vLLM servers (server@rollouts.server=vllm)",
    "transformers": "transformers servers, also on CPU (server@judge.server=transformers)",
}
"""Programs named in examples/conf/server, which are looked for in PATH, and what they are for."""
RUN = "run"
"""Name of the row about a run."""


def python_row(version: tuple[int, int]) -> Row:
    """Return the row about Python, which must be 3.10, 3.11 or 3.12."""
    good = (3, 10) <= version < (3, 13)
    fix = "" if good else "use Python 3.11"
    return Row("Python", "ok" if good else "broken", "{}.{}".format(*version), "everything", fix=fix, required=True)


def query_gpus() -> tuple[str, str]:
    """Return the output of ``nvidia-smi`` (one line per GPU) and why it failed; both are empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return "", ""
    fields = "index,name,memory.total,memory.free,compute_cap,driver_version"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if run.returncode != 0:
        return "", " ".join((run.stdout + run.stderr).split())
    return run.stdout, ""


def gpu_rows(lines: str, reason: str = "") -> tuple[Row, ...]:
    """Return a row for every line of ``query_gpus``, or one row that says that there is no GPU.

    >>> gpu_rows("0, NVIDIA H100 80GB HBM3, 81559, 80000, 9.0, 570.86")[0].enables
    'bf16, FP8'
    """
    enables = "bf16 and FP8 training, models with billions of parameters"
    if reason:
        return (Row("GPU", "broken", "", enables, reason, "repair the NVIDIA driver: nvidia-smi must work"),)
    rows = tuple(_gpu_row(*line.split(", ")) for line in lines.splitlines() if line.strip())
    return rows or (Row("GPU", "missing", "", enables, fix="an NVIDIA A100 or newer; small models also train on CPU"),)


def _gpu_row(index: str, name: str, total: str, free: str, capability: str, driver: str) -> Row:
    memory = f"{_gib(total)} GiB ({_gib(free)} free)"
    found = f"{name}, {memory}, compute capability {capability}, driver {driver}"
    bf16, fp8 = float(capability) >= BF16_CAPABILITY, float(capability) >= FP8_CAPABILITY
    if not bf16:
        return Row(f"GPU {index}", "ok", found, "fp32", fix=f"bf16 needs compute capability {BF16_CAPABILITY} (A100)")
    if not fp8:
        return Row(f"GPU {index}", "ok", found, "bf16", fix=f"FP8 needs compute capability {FP8_CAPABILITY} (Hopper)")
    return Row(f"GPU {index}", "ok", found, "bf16, FP8")


def _gib(mebibytes: str) -> str:
    """Return MiB as GiB; ``[N/A]``, which GPUs that share the host's memory report, is passed on."""
    return f"{float(mebibytes) / MIB_PER_GIB:.0f}" if mebibytes.replace(".", "").isdigit() else mebibytes


def torch_sees_gpus_row(packages: Sequence[Row], gpus: Sequence[Row]) -> tuple[Row, ...]:
    """Return a row only if there are GPUs and a torch that cannot use them."""
    cpu_build = any(row.name == "torch" and "CPU build" in row.found for row in packages)
    if not cpu_build or not any(row.name.startswith("GPU ") for row in gpus):
        return ()
    fix = "use the NeMo container: requirements/cpu.lock is for machines without a GPU"
    return (Row("torch on GPU", "broken", "", "the GPUs above", "this torch is built for CPU only", fix),)


def host_rows(folder: Path) -> tuple[Row, ...]:
    """Return rows about cores, free memory, and free disk space in the folder where runs are written."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    per_process = f"OMP_NUM_THREADS={threads}" if threads else "OMP_NUM_THREADS not set: torch decides"
    disk = shutil.disk_usage(folder)
    space = f"{disk.free / 2**30:.0f} of {disk.total / 2**30:.0f} GiB free at {folder}"
    return (
        Row("CPU", "ok", f"{affinity} of {os.cpu_count()} cores, {per_process}", "at most one process per core"),
        _memory_row(),
        Row("Disk", "ok", space, "checkpoints, about 14 bytes per parameter each"),
    )


def _memory_row() -> Row:
    enables = "weights and optimizer, about 16 bytes per trained parameter"
    try:
        import psutil
    except ImportError:
        return Row("Memory", "missing", "unknown without psutil", enables, fix="pip install psutil")
    memory = psutil.virtual_memory()
    found = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        found += f", container limit {int(text) / 2**30:.1f} GiB"
    return Row("Memory", "ok", found, enables)


def server_rows() -> tuple[Row, ...]:
    """Return a row for each kind of server that can be started; training needs none of them."""
    fix = "needed only for rollouts.engine=openai or judge.kind=openai; it may be in another environment or image"
    rows = []
    for program, enables in SERVERS.items():
        found = shutil.which(program)
        rows.append(Row(program, "ok" if found else "missing", found or "", enables, fix="" if found else fix))
    return tuple(rows)


def examine(folder: Path) -> tuple[Row, ...]:
    packages, gpus = package_rows(), gpu_rows(*query_gpus())
    python = python_row(sys.version_info[:2])
    unusable = torch_sees_gpus_row(packages, gpus)
    kernels = gpu_kernel_rows(on_gpu=gpus[0].status == "ok" and not unusable)
    return (python, *packages, *requirement_rows(), *gpus, *unusable, *kernels, *server_rows(), *host_rows(folder))


def main(
    arguments: Sequence[str] | None = None, run_rows: Callable[[Sequence[str]], tuple[Row, ...]] = lambda words: ()
) -> int:
    """Print the table; return 0 if the base stack works, and the given run if any, else 1.

    Args:
        run_rows: returns rows about a run, given its configuration name and overrides.
    """
    parser = argparse.ArgumentParser(description="Report what this machine has, what that enables, what is missing.")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("run", nargs="*", help="a file in examples/conf and key=value …: also check that run's needs")
    options = parser.parse_args(arguments)
    rows = examine(Path.cwd())
    rows += run_rows(options.run) if options.run and not failures(rows) else ()
    failed = failures(rows)
    if options.json:
        print(json.dumps({"ok": not failed, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(render(rows))
        of_stack = [name for name in failed if name != RUN]
        print(f"\nThe base stack does not work: {', '.join(of_stack)}." if of_stack else "\nThe base stack works.")
        if RUN in failed:
            print("The run would fail: see its row.")
    return 1 if failed else 0
