# SPDX-License-Identifier: Apache-2.0
"""The adapter: "cuda" means the CPU, nothing is patched twice, and nothing at all if CUDA is available."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.overrides import TorchFunctionMode

from nemo_mcpo.platform import cpu
from nemo_mcpo.platform.cpu import install_cpu_adapter
from tests.support.configs import ROOT

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the adapter is for machines without CUDA")


@pytest.fixture(scope="module", autouse=True)
def adapter():
    """Installed once per process, as in every run."""
    install_cpu_adapter()


@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda"), torch.device("cuda", 0), "cpu", None])
def test_factories_make_cpu_tensors(device):
    made = [
        torch.zeros(2, device=device),
        torch.ones(2, device=device),
        torch.empty(2, device=device),
        torch.full((2,), 3.0, device=device),
        torch.tensor([1.0, 2.0], device=device),
        torch.arange(2, device=device),
        torch.zeros_like(torch.ones(2), device=device),
        torch.ones_like(torch.ones(2), device=device),
        torch.empty_like(torch.ones(2), device=device),
        torch.full_like(torch.ones(2), 3.0, device=device),
    ]
    assert {tensor.device.type for tensor in made} == {"cpu"}


def test_other_devices_are_kept():
    assert torch.zeros(2, device="meta").is_meta


def test_tensors_report_cuda_types_and_still_convert():
    assert torch.zeros(1, device="meta").type() == "torch.meta.FloatTensor"
    assert torch.zeros(1).type() == "torch.cuda.FloatTensor"
    assert torch.zeros(1, dtype=torch.bfloat16).type() == "torch.cuda.BFloat16Tensor"
    assert torch.zeros(1).type(torch.float64).dtype == torch.float64
    assert torch.zeros(1).type(dtype=torch.int64).dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64])
def test_a_reported_type_can_be_converted_to(dtype):
    other = torch.zeros(1, dtype=dtype)
    assert torch.ones(2).type(other.type()).dtype == dtype
    assert torch.ones(2).type(other.type().replace("cuda.", "")).dtype == dtype


def test_types_of_cuda_can_be_converted_to():
    assert torch.ones(2).type(torch.cuda.HalfTensor).dtype == torch.float16
    assert torch.ones(2).type(torch.HalfTensor).dtype == torch.float16


class Calls(TorchFunctionMode):
    """Passes every call on unchanged."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    """Changes nothing."""


def test_function_modes_and_subclasses():
    for tensor in (torch.zeros(2), torch.zeros(2).as_subclass(Subclass)):
        with Calls():
            assert tensor.type() == "torch.cuda.FloatTensor"
            assert tensor.type("torch.cuda.DoubleTensor").dtype == torch.float64
            assert tensor.cuda() is tensor
            assert torch.zeros_like(tensor, device="cuda").device.type == "cpu"
            assert torch.full((2,), 1.0, device="cuda").device.type == "cpu"
        assert tensor.type() == "torch.cuda.FloatTensor"
        assert type(tensor.cuda()) is type(tensor.type(torch.float64)) is type(tensor)


@pytest.mark.parametrize("name", ["zeros", "ones", "empty", "full", "tensor", "arange"])
def test_the_default_device_of_a_block(name):
    """transformers builds models on meta, without memory."""
    arguments = {"full": ((2,), 1.0), "tensor": ([1.0],)}
    with torch.device("meta"):
        assert getattr(torch, name)(*arguments.get(name, (2,))).is_meta


def test_moving_to_cuda_does_nothing():
    tensor = torch.zeros(2)
    assert tensor.cuda() is tensor
    assert torch.cuda.current_device() == torch.device("cpu")
    assert torch.cuda.synchronize() is None
    assert torch.cuda.set_device(0) is None


def test_the_cuda_generator_is_the_cpu_generator():
    with torch.random.fork_rng(devices=[]):
        torch.cuda.manual_seed(3)
        state = torch.cuda.get_rng_state()
        first = torch.rand(4)
        torch.cuda.set_rng_state(state)
        assert torch.equal(torch.rand(4), first)
        torch.manual_seed(3)
        assert torch.equal(torch.rand(4), first)


def test_a_second_call_patches_nothing():
    before = (torch.zeros, torch.Tensor.type, torch.cuda.manual_seed)
    install_cpu_adapter()
    assert (torch.zeros, torch.Tensor.type, torch.cuda.manual_seed) == before


def test_nothing_is_patched_with_cuda(monkeypatch):
    monkeypatch.setattr(cpu, "_installed", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.zeros
    install_cpu_adapter()
    assert torch.zeros is before
    assert cpu._installed is False


def test_importing_patches_nothing():
    program = "import torch, nemo_mcpo.platform.cpu; print(torch.zeros(1).type())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch.FloatTensor"
