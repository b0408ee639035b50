# SPDX-License-Identifier: Apache-2.0
"""The device that a run gets, by what torch and the driver say, and FP8 only on GPUs that have it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.platform import accelerator
from nemo_mcpo.platform.accelerator import check_fp8_here, select_accelerator
from tests.support.configs import checked

A100 = "0, NVIDIA A100-SXM4-80GB, 81920, 80000, 8.0, 570.86"
L40 = "0, NVIDIA L40S, 46068, 45000, 8.9, 570.86"
H100 = "1, NVIDIA H100 80GB HBM3, 81559, 80000, 9.0, 570.86"

IN_BF16 = {"model.transformer_impl": "auto", "trainer.precision": "bf16"}
HYBRID = checked(IN_BF16 | {"model.fp8": "hybrid"}).model
SCORING = checked(IN_BF16 | {"model.mcpo.scoring_fp8": True}).model


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Puts an nvidia-smi that prints these lines first in PATH; returns a file that grows with every call."""

    def install(*lines: str) -> Path:
        program, calls = tmp_path / "nvidia-smi", tmp_path / "calls"
        calls.write_text("")
        program.write_text(f"#!/bin/sh\necho >> {calls}\n" + "".join(f"echo '{line}'\n" for line in lines))
        program.chmod(0o755)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return calls

    return install


def test_fp8_on_gpus_that_have_it(driver):
    for model in (HYBRID, SCORING):
        calls = driver(H100, H100)
        check_fp8_here(model)
        assert calls.read_text()  # it passes because of what the driver says
    calls = driver(A100)
    check_fp8_here(checked().model)
    assert not calls.read_text()  # without FP8, the driver is not asked


@pytest.mark.parametrize(
    ("lines", "found"),
    [([H100, A100], "NVIDIA A100-SXM4-80GB, compute capability 8.0"), ([], "no GPU, compute capability 0.0")],
)
def test_fp8_on_gpus_that_lack_it(driver, lines, found):
    driver(*lines)
    for model, key, value, off in (
        (SCORING, "model.mcpo.scoring_fp8", True, "false"),
        (HYBRID, "model.fp8", "hybrid", "null"),
    ):
        with pytest.raises(ConfigError) as caught:
            check_fp8_here(model)
        error = caught.value
        assert (error.where, error.got) == (key, f"{value} on {found}")
        assert error.expected == "at least 8.9 (H100, H200, L40)"
        assert error.fix.startswith(f"set {key}={off}")


@pytest.mark.parametrize(
    ("variable", "count"), [("", 0), ("-1", 0), ("NoDevFiles", 0), ("0", 1), ("0,3", 2), ("GPU-8a1b, MIG-77", 2)]
)
def test_visible_gpus(monkeypatch, variable, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert accelerator.count_gpus() == count


def test_only_visible_gpus_need_fp8(driver, monkeypatch):
    driver(A100, H100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    check_fp8_here(HYBRID)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match="A100"):
        check_fp8_here(HYBRID)


def test_gpus_of_unknown_capability_pass(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    calls = driver("0, NVIDIA GB10, [N/A], [N/A], [N/A], 580.95")
    check_fp8_here(HYBRID)
    assert calls.read_text()
    driver("0, NVIDIA GB10, [N/A], [N/A], 8.0, 580.95")
    with pytest.raises(ConfigError, match="NVIDIA GB10, compute capability 8"):
        check_fp8_here(HYBRID)


def test_blockwise_fp8_needs_hopper(driver):
    blockwise = checked(IN_BF16 | {"model.fp8": "e4m3", "model.fp8_recipe": "blockwise"}).model
    driver(H100)
    check_fp8_here(blockwise)
    driver(L40)
    check_fp8_here(HYBRID)
    with pytest.raises(ConfigError) as caught:
        check_fp8_here(blockwise)
    assert "blockwise" in caught.value.what and "NVIDIA L40S" in str(caught.value.got)
    assert caught.value.expected == "at least 9.0 (H100, H200)"


OLD_DRIVER = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)."


@pytest.fixture
def machine(monkeypatch):
    """Simulates a machine: its number of GPUs, the CUDA of its torch, and torch's warning about the driver."""

    def install(num_gpus: int, cuda: str | None, warning: str = "", usable: bool = False) -> list[bool]:
        asked = []

        def is_available() -> bool:
            asked.append(True)
            if warning:
                warnings.warn(warning, stacklevel=1)
            return usable

        monkeypatch.setattr(accelerator, "count_gpus", lambda: num_gpus)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", is_available)
        return asked

    return install


@pytest.mark.parametrize("name", ["gpu", "auto"])
def test_a_driver_that_is_too_old_is_named(machine, name):
    machine(8, "12.9", OLD_DRIVER)
    with pytest.raises(ConfigError) as caught:
        select_accelerator(name)
    assert (caught.value.where, caught.value.got) == ("trainer.accelerator", f"{name}; {OLD_DRIVER}")
    assert "update the driver" in caught.value.fix


def test_a_machine_without_gpus(machine):
    machine(0, "12.9")
    select_accelerator("auto")
    with pytest.raises(ConfigError, match=r"for CUDA 12\.9 finds no GPU"):
        select_accelerator("gpu")


def test_a_torch_without_cuda_on_a_machine_with_a_gpu(machine):
    machine(1, None)
    select_accelerator("auto")
    with pytest.raises(ConfigError, match="is built for CPU only"):
        select_accelerator("gpu")


@pytest.mark.parametrize("name", ["gpu", "auto"])
def test_a_gpu_that_works(machine, monkeypatch, name):
    asked = machine(1, "12.9", usable=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    select_accelerator(name)
    assert asked and os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_cpu_hides_the_gpus(machine, monkeypatch):
    machine(8, "12.9", OLD_DRIVER)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    select_accelerator("cpu")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
