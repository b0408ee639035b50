# SPDX-License-Identifier: Apache-2.0
"""The doctor reports GPUs by capability, and its exit code says whether the base stack works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_mcpo.platform import doctor
from nemo_mcpo.platform.report import Row

ROOT = Path(__file__).parents[3]
A100 = "0, NVIDIA A100-SXM4-80GB, 81920, 81000, 8.0, 550.54.15"
H100 = "1, NVIDIA H100 80GB HBM3, 81559, 40000, 9.0, 550.54.15"


@pytest.mark.parametrize(
    ("capability", "enables"),
    [
        ("7.0", "fp32"),
        ("8.0", "bf16"),
        ("8.6", "bf16"),
        ("8.9", "bf16, FP8"),
        ("9.0", "bf16, FP8"),
        ("12.0", "bf16, FP8"),
    ],
)
def test_what_a_gpu_enables(capability, enables):
    (row,) = doctor.gpu_rows(f"0, Some GPU, 81920, 40960, {capability}, 550.54\n")
    assert (row.name, row.status, row.enables) == ("GPU 0", "ok", enables)
    assert "80 GiB (40 free)" in row.found
    assert bool(row.fix) == ("FP8" not in enables)


def test_one_row_per_gpu():
    rows = doctor.gpu_rows(f"{A100}\n{H100}\n")
    assert [row.name for row in rows] == ["GPU 0", "GPU 1"]


def test_memory_that_the_driver_does_not_report():
    (row,) = doctor.gpu_rows("0, NVIDIA GB10, [N/A], [N/A], 12.1, 580.95")
    assert "[N/A] GiB" in row.found


def test_no_gpu_and_a_broken_driver_are_different():
    assert doctor.gpu_rows("")[0].status == "missing"
    (broken,) = doctor.gpu_rows("", "Failed to initialize NVML: Driver/library version mismatch")
    assert (broken.status, broken.reason) == ("broken", "Failed to initialize NVML: Driver/library version mismatch")


def test_a_cpu_build_of_torch_on_a_gpu_machine_is_reported():
    cpu_build, cuda_build = (Row("torch", "ok", f"2.13.0 ({kind})", "") for kind in ("CPU build", "CUDA 13.0"))
    gpus = doctor.gpu_rows(A100)
    assert [row.status for row in doctor.torch_sees_gpus_row([cpu_build], gpus)] == ["broken"]
    assert doctor.torch_sees_gpus_row([cuda_build], gpus) == ()
    assert doctor.torch_sees_gpus_row([cpu_build], doctor.gpu_rows("")) == ()


@pytest.mark.parametrize(("version", "status"), [((3, 9), "broken"), ((3, 11), "ok"), ((3, 13), "broken")])
def test_python_versions(version, status):
    row = doctor.python_row(version)
    assert (row.status, bool(row.fix)) == (status, status == "broken")


@pytest.mark.parametrize(("status", "required", "code"), [("ok", True, 0), ("broken", False, 0), ("broken", True, 1)])
def test_exit_code(monkeypatch, capsys, status, required, code):
    monkeypatch.setattr(doctor, "examine", lambda folder: (Row("NeMo", status, "2.7.3", "x", required=required),))
    assert doctor.main(["--json"]) == code
    assert json.loads(capsys.readouterr().out)["ok"] == (code == 0)


def test_this_machine(tmp_path):
    script = ROOT / "scripts" / "doctor.py"
    run = subprocess.run([sys.executable, str(script), "--json"], cwd=tmp_path, capture_output=True, text=True)
    report = json.loads(run.stdout)
    status = {row["name"]: row["status"] for row in report["rows"]}
    assert (run.returncode, report["ok"]) == (0, True), run.stdout
    assert {"torch", "megatron-core", "NeMo", "Transformer Engine", "CPU", "Memory", "Disk"} <= set(status)
