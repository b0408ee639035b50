# SPDX-License-Identifier: Apache-2.0
"""Forks return the results of one process in order, and none of them is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from nemo_mcpo.errors import DataError, MemoryExhaustedError
from nemo_mcpo.platform import in_forks as module
from nemo_mcpo.platform.in_forks import in_forks, num_forks


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def product(seed):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(20, 20, generator=generator)
    return os.getpid(), (first @ first).tolist()


def test_the_results_are_those_of_one_process_in_order():
    found = list(in_forks(product, range(7)))
    assert [values for _, values in found] == [product(seed)[1] for seed in range(7)]
    assert 1 <= len({pid for pid, _ in found} - {os.getpid()}) <= 2 and os.getpid() not in {pid for pid, _ in found}


def test_work_need_not_be_picklable():
    table = {3: "three"}
    assert list(in_forks(lambda item: table.get(item), [3, 4])) == ["three", None]


def test_one_process_with_threads_or_a_gpu_or_one_item(monkeypatch):
    assert (num_forks(0), num_forks(1), num_forks(5)) == (1, 1, 2)
    assert list(in_forks(lambda item: os.getpid(), [1])) == [os.getpid()]
    torch.set_num_threads(2)
    assert num_forks(5) == 1
    torch.set_num_threads(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert num_forks(5) == 1


def test_an_error_of_the_work_comes_through():
    def fail(item):
        raise DataError("bad item", got=item, fix="drop it")

    with pytest.raises(DataError) as caught:
        list(in_forks(fail, [1, 2]))
    assert (caught.value.what, caught.value.got, caught.value.fix) == ("bad item", 1, "drop it")


def test_a_killed_process_is_an_error():
    with pytest.raises(MemoryExhaustedError) as caught:
        list(in_forks(lambda item: os.kill(os.getpid(), signal.SIGKILL), [1, 2]))
    assert caught.value.got == "2 processes" and "OMP_NUM_THREADS=2" in caught.value.fix


def test_stopping_early_leaves_no_process():
    results = in_forks(product, range(50))
    pid, _ = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_killed_parent_takes_its_processes_along():
    program = (
        "import os, time, torch\n"
        "torch.set_num_threads(1)\n"
        "from nemo_mcpo.platform.in_forks import in_forks\n"
        "os.sched_getaffinity = lambda _: {0, 1}\n"
        "report = lambda: os.write(1, b'%d\\n' % os.getpid())  # print writes twice where Python is unbuffered\n"
        "for _ in in_forks(lambda item: (report(), time.sleep(60)), [1, 2]): pass\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
