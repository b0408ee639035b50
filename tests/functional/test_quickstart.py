# SPDX-License-Identifier: Apache-2.0
"""A miniature quickstart: every stage with its real command, on too few sums to learn anything."""

import json
from pathlib import Path

import pytest

from tests.support.launch import ROOT, run

FILES = ("sft.jsonl", "preference_prompts.jsonl", "evaluation.jsonl")


def command(name: str, out: Path, *options: str) -> str:
    """Run a script that must succeed; return its output."""
    done = run(ROOT / "scripts" / name, ["--out", str(out), *options])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sums(file: Path) -> set[frozenset[str]]:
    """The pairs of numbers in a file, regardless of their order."""
    prompts = [json.loads(line)["prompt"] for line in file.read_text().splitlines()]
    return {frozenset(prompt.split("What is ")[1].split("?")[0].split("+")) for prompt in prompts}


@pytest.mark.functional
@pytest.mark.parallel
def test_miniature(tmp_path):
    out = tmp_path / "quickstart"
    options = ("--seed", "5", "--sums", "96", "96", "20")
    said = command("quickstart.py", out, *options)
    for words in ("[1/10]", "[10/10]", "exact match", "preference accuracy", "Where to look", "--nproc-per-node=2"):
        assert words in said
    content = json.loads((out / "summary.json").read_text())
    assert list(content) == ["sft", "mcpo", "onmcpo", "seconds"]
    for policy in ("sft", "mcpo", "onmcpo"):
        for rate in ("exact_match", "preference_accuracy"):
            values = content[policy][rate]
            assert 0 <= values["low"] <= values["mean"] <= values["high"] <= 1
    assert [len((out / name).read_text().splitlines()) for name in FILES] == [96, 96, 20]
    first = json.loads((out / "mcpo" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(1.0986, abs=1e-4)  # log(1 + M) with M = 2: the policy is its reference
    assert first["kernel/ess"] == pytest.approx(5.0, abs=1e-4)  # of six candidates rank 2 is dropped
    again = command("quickstart.py", out, *options)
    assert again.count("already finished") == 10
    assert json.loads((out / "summary.json").read_text()) == content


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_sum_is_in_two_files(tmp_path, seed):
    """At full size, and regardless of the order of the two numbers: no evaluated sum was trained on."""
    command("quickstart_data.py", tmp_path, "--seed", str(seed))
    parts = [sums(tmp_path / name) for name in FILES]
    assert len(parts[2]) >= 500
    assert sum(map(len, parts)) == len(set.union(*parts))
