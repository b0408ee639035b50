# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.platform.accelerator import check_fp8

A100 = "0, NVIDIA A100-SXM4-80GB, 81920, 80000, 8.0, 570.86"
H100 = "1, NVIDIA H100 80GB HBM3, 81559, 80000, 9.0, 570.86"


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Puts a nvidia-smi that prints these lines before all other programs."""

    def install(*lines: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return install


def test_fp8_where_it_is(driver):
    driver(H100, H100)
    check_fp8("hybrid")
    driver(A100)
    check_fp8(None)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([H100, A100], "NVIDIA A100-SXM4-80GB, compute capability 8.0"),
        ([], "no GPU, compute capability 0.0"),
    ],
)
def test_fp8_where_it_is_not(driver, lines, found):
    driver(*lines)
    with pytest.raises(ConfigError) as caught:
        check_fp8("hybrid")
    assert str(caught.value) == (
        f"model.fp8: this GPU has no FP8 (got hybrid on {found}, expected at least 8.9 (H100, H200, L40)). "
        "Cure: set model.fp8=null: bf16 runs on A100 and newer."
    )
