# SPDX-License-Identifier: Apache-2.0
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
    """Puts a nvidia-smi that prints these lines first on PATH; returns a file that grows when it is called."""

    def install(*lines: str) -> Path:
        program, calls = tmp_path / "nvidia-smi", tmp_path / "calls"
        calls.write_text("")
        program.write_text(f"#!/bin/sh\necho >> {calls}\n" + "".join(f"echo '{line}'\n" for line in lines))
        program.chmod(0o755)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return calls

    return install


def test_fp8_where_it_is(driver):
    for model in (HYBRID, SCORING):
        calls = driver(H100, H100)
        check_fp8_here(model)
        assert calls.read_text()  # it passes for what the driver says, not unasked
    calls = driver(A100)
    check_fp8_here(checked().model)
    assert not calls.read_text()  # without FP8 nobody needs to know


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([H100, A100], "NVIDIA A100-SXM4-80GB, compute capability 8.0"),
        ([], "no GPU, compute capability 0.0"),
    ],
)
def test_fp8_where_it_is_not(driver, lines, found):
    driver(*lines)
    with pytest.raises(ConfigError, match=r"model\.mcpo\.scoring_fp8: this GPU has no FP8 .*scoring_fp8=false"):
        check_fp8_here(SCORING)
    with pytest.raises(ConfigError) as caught:
        check_fp8_here(HYBRID)
    assert str(caught.value) == (
        f"model.fp8: this GPU has no FP8 (got hybrid on {found}, expected at least 8.9 (H100, H200, L40)). "
        "Fix: set model.fp8=null: bf16 runs on A100 and newer."
    )


@pytest.mark.parametrize(
    ("variable", "count"),
    [("", 0), ("-1", 0), ("NoDevFiles", 0), ("0", 1), ("0,3", 2), ("GPU-8a1b, MIG-77", 2)],
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


def test_a_driver_that_does_not_say_is_believed(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    calls = driver("0, NVIDIA GB10, [N/A], [N/A], [N/A], 580.95")
    check_fp8_here(HYBRID)
    assert calls.read_text()
    driver("0, NVIDIA GB10, [N/A], [N/A], 8.0, 580.95")
    with pytest.raises(ConfigError, match="NVIDIA GB10, compute capability 8"):
        check_fp8_here(HYBRID)


def test_fp8_by_blocks_needs_hopper(driver):
    by_blocks = checked(IN_BF16 | {"model.fp8": "e4m3", "model.fp8_recipe": "blockwise"}).model
    driver(H100)
    check_fp8_here(by_blocks)
    driver(L40)
    check_fp8_here(HYBRID)
    with pytest.raises(ConfigError, match=r"no FP8 by blocks .*NVIDIA L40S.*at least 9\.0 \(H100, H200\)"):
        check_fp8_here(by_blocks)


OLD_DRIVER = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)."


@pytest.fixture
def machine(monkeypatch):
    """Makes this a machine with so many GPUs, a torch for this CUDA, and what torch says of the driver when asked."""

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
    assert str(caught.value).startswith(f"trainer.accelerator: torch cannot use a GPU here (got {name}; {OLD_DRIVER})")
    assert "update the driver" in str(caught.value)


def test_gpus_that_are_not_there(machine):
    machine(0, "12.9")
    select_accelerator("auto")
    with pytest.raises(ConfigError, match=r"for CUDA 12\.9 finds no GPU"):
        select_accelerator("gpu")


def test_a_torch_without_cuda_beside_a_gpu(machine):
    machine(1, None)
    select_accelerator("auto")
    with pytest.raises(ConfigError, match="is built for CPUs only"):
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
