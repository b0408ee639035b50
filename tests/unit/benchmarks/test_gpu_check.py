# SPDX-License-Identifier: Apache-2.0
"""The GPU checks: every command is valid for the benchmark, and results become lines of the table."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import benchmark
from benchmarks.gpu_check import GPU, GPU_TESTS, REHEARSAL, Check, checks, outcome_of, read_results, run_checks
from benchmarks.gpu_targets import KINDS, measurements, table
from nemo_mcpo.algorithms.configuration import load_run_config
from tests.support.configs import CONF, ROOT

SPREAD = {"median": 1.2, "low": 1.1, "high": 1.3}


@pytest.mark.parametrize("scale", [GPU, REHEARSAL], ids=["gpu", "rehearsal"])
def test_every_check_is_a_valid_command(tmp_path, scale):
    every = list(checks(scale, ROOT, tmp_path))
    assert len({check.name for check in every}) == len(every)
    for check in every:
        if check.result == "xml":
            continue
        arguments = benchmark._parse_arguments(check.arguments[1:])
        assert arguments.json == tmp_path / f"{check.name}.json"
        precision = "bf16" if scale is GPU else "32"
        changes = {} if "fp8" not in check.name or scale is GPU else {"trainer.precision": "bf16"}
        overrides = [*benchmark._overrides(arguments), *(f"{key}={value}" for key, value in changes.items())]
        config = load_run_config(overrides, config_dir=CONF, config_name="tiny_cpu", world_size=1)
        assert config.trainer.precision == (precision if not changes else "bf16")
        assert config.trainer.accelerator == ("gpu" if scale is GPU else "cpu")


def test_every_test_for_gpus_is_among_the_checks():
    marked = [path for path in (ROOT / "tests").rglob("*.py") if "pytest.mark.gpu" in path.read_text()]
    inside = [path for path in marked if any(path.is_relative_to(ROOT / folder) for folder in GPU_TESTS)]
    assert len(inside) > 1
    assert [path for path in marked if path not in inside] == [Path(__file__)]


def check(name: str, program: str, **changes: object) -> Check:
    return Check(name, ("-c", program), **changes)


def test_a_failing_check_does_not_affect_the_others(tmp_path):
    said: list[str] = []
    chosen = [
        check("good", f"open(r'{tmp_path}/good.json', 'w').write('[]'); print('fine')"),
        check("bad", "import sys; print('error: training: out of memory', file=sys.stderr); sys.exit(1)"),
        check("lacking", "", needs=("transformer_engine", "nowhere/")),
        check("slow", "import subprocess; subprocess.run(['sleep', '60.125'])", seconds=1),
        check("silent", ""),
    ]
    for one in chosen:
        (tmp_path / f"{one.name}.json").write_text('[{"of an earlier run": 1}]')
    assert run_checks(chosen, ROOT, tmp_path, said.append) == ["bad", "slow", "silent"]
    assert {one.name: outcome_of(one, tmp_path) for one in chosen} == {
        "good": "",
        "bad": "exit 1: error: training: out of memory",
        "lacking": "not run: transformer_engine, nowhere/ not found",
        "slow": "timed out after 1 s",
        "silent": "exit 0, but no result",
    }
    assert outcome_of(check("never", ""), tmp_path) == "not run"
    assert (tmp_path / "good.log").read_text() == "fine\n" and read_results(chosen[0], tmp_path) == []
    assert subprocess.run(["pgrep", "-f", "sleep 60.125"], stdout=subprocess.DEVNULL).returncode == 1
    assert len(said) == 5


def test_results_of_the_tests(tmp_path):
    suite = '<testsuites><testsuite tests="7" failures="1" errors="0" skipped="2"/></testsuites>'
    (tmp_path / "tests.xml").write_text(suite)
    assert read_results(check("tests", "", result="xml"), tmp_path) == [
        {"tests": 7, "failures": 1, "errors": 0, "skipped": 2}
    ]


@pytest.mark.parametrize(("counts", "reached"), [((7, 0, 2), True), ((7, 1, 2), False), ((2, 0, 2), False)])
def test_tests_that_only_skip_prove_nothing(counts, reached):
    tests, failures, skipped = counts
    [line] = measurements("tests", [{"tests": tests, "failures": failures, "errors": 0, "skipped": skipped}])
    assert line.reached is reached


def step(recompute: str, prompt: int, completion: int, mfu: float | None) -> dict:
    peaks = {"plain_dpo_peak_gigabytes": 20.0, "mcpo_peak_gigabytes": 24.0}
    lengths = {"prompt_length": prompt, "completion_length": completion}
    return {"ratio": SPREAD, "recompute": recompute, "plain_dpo_mfu": mfu} | lengths | peaks


@pytest.mark.parametrize(
    ("report", "reached"),
    [
        (step("none", 250, 250, 0.46), [True, True, None]),
        (step("none", 121, 288, 0.44), [True, False, None]),
        (step("full", 250, 250, 0.44), [False, None, None]),
        (step("full", 121, 288, None), [True, None, None]),
        (step("none", 16, 8, None), [None, None, None]),
    ],
)
def test_steps(report, reached):
    assert [line.reached for line in measurements("step-1b-none", [report])] == reached


def test_fp8_has_no_targets():
    lines = measurements("fp8-1b", [step("none", 250, 250, 0.9)])
    assert [line.reached for line in lines] == [None] * 3 and all(line.what.startswith("FP8: ") for line in lines)


@pytest.mark.parametrize(("speedup", "ours", "reached"), [(1.6, 6.9, [True, True]), (1.4, 7.1, [False, False])])
def test_peer(speedup, ours, reached):
    report = {
        "shared_speedup": SPREAD | {"median": speedup},
        "shared_peak_gigabytes": ours,
        "trl_peak_gigabytes": 10.0,
    }
    assert [line.reached for line in measurements("peer-1b", [report])] == reached
    assert len(measurements("peer-1b", [{"shared_speedup": SPREAD}])) == 1  # on a CPU there are no peaks


def test_optimizers():
    """An update has no target, because its time depends on the bandwidth to host memory."""
    phases = {"optimizer": {"seconds": 0.25}, "training": {"seconds": 0.5}}
    keys = {"moments_dtype": "float32", "cpu_offload": True}
    [line] = measurements(
        "optimizer-1b-offload", [{"phases": phases, "seconds": 1.0, "peak_gigabytes": 9.5, "optimizer": keys}]
    )
    assert line.what == "update of 1b, moments_dtype=float32, cpu_offload=True"
    assert (line.value, line.reached) == ("250 ms of 1000 ms per step; peak 9.5 GB", None)


def test_the_table():
    lines = measurements("curve", [{"bf16_distance": 0.01, "seed_distance": 0.02, "steps": 50, "within_noise": True}])
    assert table(lines).splitlines() == [
        "| measurement | value | target |  |",
        "| --- | --- | --- | --- |",
        "| loss in bf16 against float32, 50 steps | 0.0100 nats per step; another seed: 0.0200 | <= another seed "
        "| reached |",
    ]


def test_every_check_has_a_kind(tmp_path):
    assert {check.name.partition("-")[0] for check in checks(GPU, ROOT, tmp_path)} == set(KINDS)
