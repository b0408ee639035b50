# SPDX-License-Identifier: Apache-2.0
"""The first GPU kernel that is installed is reported, or its fallback with a fix."""

from __future__ import annotations

import pytest

from nemo_mcpo.platform import gpu_kernels
from nemo_mcpo.platform.gpu_kernels import gpu_kernel_rows


@pytest.fixture
def installed(monkeypatch):
    def install(*modules: str) -> None:
        monkeypatch.setattr(gpu_kernels, "is_installed", lambda module: module in modules)

    return install


def found(rows) -> dict[str, str]:
    return {row.name: row.found for row in rows}


def test_a_cpu_has_no_rows():
    assert gpu_kernel_rows(on_gpu=False) == ()


def test_the_first_installed_provider_is_used(installed):
    installed("transformer_engine", "amp_C", "triton")
    assert found(gpu_kernel_rows(on_gpu=True))["Adam"] == "Transformer Engine"
    installed("amp_C", "fused_weight_gradient_mlp_cuda")
    rows = gpu_kernel_rows(on_gpu=True)
    assert found(rows)["Adam"] == found(rows)["Weight gradients"] == "Apex"
    assert found(rows)["RMSNorm"] == "torch"
    fixes = {row.name: row.fix for row in rows if row.status == "missing"}
    assert fixes["SwiGLU"] == "install triton" and "NeMo container" in fixes["RMSNorm"]
    assert not any(row.required for row in rows)
