# SPDX-License-Identifier: Apache-2.0
"""The benchmark's subcommands run on a small model, write what they promise, and refuse what they cannot measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.launch import ROOT, fork, run, write_preferences

SCRIPT = ROOT / "scripts" / "benchmark.py"
SMALL = ["--model", "1m", "--prompts", "2", "--steps", "2"]

pytestmark = pytest.mark.functional


def benchmark(tmp_path: Path, *arguments: str, processes: int = 1, start=fork) -> tuple[list[dict], str]:
    out = tmp_path / "out.json"
    done = start(SCRIPT, [*arguments, "--json", str(out)], processes)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text()), done.stdout


def test_steps_of_two_shapes_in_two_processes(tmp_path):
    shapes = ["--shape", "16x8", "--shape", "8x24", "--recompute", "full"]
    tensor_parallel = ["--set", "model.tensor_model_parallel_size=2"]
    reports, text = benchmark(tmp_path, "step", *shapes, *SMALL, *tensor_parallel, processes=2, start=run)
    assert [(one["prompt_length"], one["completion_length"]) for one in reports] == [(16, 8), (8, 24)]
    for one in reports:
        assert one["ratio"]["low"] <= one["ratio"]["median"] <= one["ratio"]["high"]
        assert one["plain_dpo_seconds"] > 0 and one["mcpo_seconds"] > 0 and one["predicted_ratio"] > 0
        assert (one["candidates"], one["steps"], one["processes"], one["reuse_scoring"]) == (5, 2, 2, True)
    assert len(text.splitlines()) == 3


def test_a_real_file_and_trl(tmp_path):
    data = write_preferences(tmp_path / "data.jsonl", num_prompts=12)
    [peers], text = benchmark(tmp_path, "peer", "--data", str(data), "--format", "jsonl", *SMALL)
    assert peers["plain_speedup"]["median"] > 0 and peers["shared_prompts_per_second"] > 0
    assert "TRL DPOTrainer" in text


def test_log_probs_in_packed_trees_are_those_of_transformers(tmp_path):
    data = write_preferences(tmp_path / "data.jsonl", num_prompts=12)
    tensor_parallel = ["--set", "model.tensor_model_parallel_size=2"]
    flags = ["--data", str(data), "--format", "jsonl", "--model", "1m", "--prompts", "3", *tensor_parallel]
    [report], text = benchmark(tmp_path, "parity", *flags, processes=2)
    assert report["prompts"] == 3 and 6 <= report["sequences"] <= 18 and "sequences of 3 prompts" in text
    for pair in ("ours_theirs", "ours_float64", "theirs_float64"):
        assert 0 < report[f"{pair}_mean"] <= report[f"{pair}_largest"] <= 1e-4


def test_attention_and_head(tmp_path):
    [report], _ = benchmark(tmp_path, "attention", "--shape", "16x8", "--steps", "1", "--model", "1m")
    assert set(report["forward"]) == {"cascade", "sdpa", "dense mask"} == set(report["forward_backward"])
    sizes = ["--positions", "4096", "--vocabulary", "20000", "--hidden", "32"]
    [head], _ = benchmark(tmp_path, "head", *sizes, "--full")
    assert head["full_logits_bytes"] == 4096 * 20000 * 4
    assert head["full"]["extra_bytes"] > head["full_logits_bytes"]
    assert head["chunked"]["extra_bytes"] < 0.15 * head["full_logits_bytes"]


@pytest.mark.parametrize("flags", [[], ["--streams"]])
def test_replies_of_servers(tmp_path, flags):
    counts = ["--replies", "40", "--tokens", "50", "--in-flight", "4", "--steps", "1"]
    [report], text = benchmark(tmp_path, "client", *counts, *flags)
    assert (report["replies"], report["in_flight"], report["tokens_a_reply"]) == (40, 4, 50.0)
    assert report["tokens_per_second"] == pytest.approx(50 * report["replies_per_second"]) and text.count("\n") == 1
    assert 0 < report["slowest"] == report["fastest"] == report["tokens_per_second"]


def test_where_the_time_of_a_step_goes(tmp_path):
    [report], text = benchmark(tmp_path, "profile", "--shape", "64x32", *SMALL)
    phases = report["phases"]
    assert list(phases) == ["scoring", "drawing", "training", "optimizer", "between"]
    assert sum(phase["seconds"] for phase in phases.values()) == pytest.approx(report["seconds"], rel=0.2)
    assert phases["scoring"]["kernels"]["products"] > 0 < phases["training"]["kernels"]["products"]
    assert "optimizer" in phases["optimizer"]["kernels"]
    assert len(text.splitlines()) == 6


def test_the_check_for_gpus_rehearsed(tmp_path):
    done = run(ROOT / "scripts" / "gpu_check.py", ["--rehearse", "--only", "curve", "fp8", "--out", str(tmp_path)])
    assert done.returncode == 0, done.stdout[-3000:]
    text = (tmp_path / "gpu_check.md").read_text()
    assert text.startswith("# Rehearsed on a CPU") and "| loss in bf16 against float32, 3 steps |" in text
    assert "fp8-1m: not run: transformer_engine not found" in text and "step-1m-none: not run" in text
    facts = json.loads((tmp_path / "gpu_check.json").read_text())
    [curves] = facts["results"]["curve"]
    assert facts["outcomes"]["curve"] == "" and "bf16 is off by" in (tmp_path / "curve.log").read_text()
    assert 0 < curves["bf16_distance"] < curves["seed_distance"] and curves["within_noise"]
    assert [len(losses) for losses in curves["losses"].values()] == [3, 3, 3]


def test_a_gpu_is_asked_for_where_there_is_none(tmp_path):
    done = fork(ROOT / "scripts" / "gpu_check.py", ["--out", str(tmp_path)])
    assert done.returncode == 2
    assert "trainer.accelerator: " in done.stderr and "(got gpu; " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["step", "--shape", "12"], "--shape: not a shape"),
        (["step", "--shape", "8x8", "--model", "7m"], "--model: no such model"),
        (["step", "--shape", "8x8", "--attention-backend", "flex"], "model.attention_backend"),
    ],
)
def test_what_cannot_be_measured(arguments, message):
    done = fork(SCRIPT, arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr.split(message)[0]
