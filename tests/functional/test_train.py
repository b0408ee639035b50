# SPDX-License-Identifier: Apache-2.0
"""The real commands: bad input gets one line and the right exit code, a full disk loses nothing, and a checkpoint
becomes a model that others can read."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from nemo_mcpo.models.huggingface.checkpoint import hash_weights
from nemo_mcpo.models.huggingface.config import read_architecture
from nemo_mcpo.models.pretrained import open_pretrained
from tests.support.configs import ROOT
from tests.support.launch import NUM_CANDIDATES, checkpoint_names, fork, metrics, overrides, run, train

EXPORT = ROOT / "scripts" / "export_model.py"

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def trained(inputs) -> Path:
    """A run of four steps."""
    run = inputs / "trained"
    done = train(overrides(inputs, run, trainer__mcpo__max_steps=4))
    assert done.returncode == 0, done.stderr
    return run


def failure(arguments: list[str], code: int, processes: int = 1) -> str:
    """The line with which training ends, before any traceback."""
    done = train(arguments, processes, fork if processes == 1 else run)
    # torchrun itself ends with 1, and reports the exit code of its processes.
    assert done.returncode == (code if processes == 1 else 1), done.stderr
    assert processes == 1 or f"exitcode  : {code} " in done.stderr
    lines = done.stderr.splitlines()
    place = next((number for number, line in enumerate(lines) if line.startswith("error: ")), None)
    assert place is not None, done.stderr
    others = lines[:place] if processes > 1 else lines  # torchrun adds its own traceback
    assert not any(line.startswith("Traceback") for line in others)
    return lines[place].removeprefix("error: ")


def model_copy(inputs: Path, tmp_path: Path, **config: object) -> Path:
    """A copy of the small model with other values in its config.json."""
    copy = tmp_path / "model"
    shutil.copytree(inputs / "model", copy)
    raw = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(raw | config))
    return copy


def with_model(inputs: Path, tmp_path: Path, model: Path) -> list[str]:
    return overrides(inputs, tmp_path / "run", pretrained_checkpoint__restore_from_path=model)


def test_it_trains(trained):
    lines = metrics(trained)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert all(abs(lines[0][f"rewards/{name}"]) <= 1e-4 for name in ("chosen", "rejected", "margin"))
    assert lines[0]["kernel/ess"] == pytest.approx(NUM_CANDIDATES, abs=1e-3)
    assert checkpoint_names(trained) == ["step-00000002", "step-00000004"]


@pytest.fixture(scope="module")
def exported(trained) -> Path:
    """The newest checkpoint of the run as a Hugging Face directory."""
    out = trained.with_name("exported")
    done = run(EXPORT, ["--checkpoint", str(trained), "--out", str(out)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(out)
    return out


def test_a_checkpoint_becomes_a_model(exported, inputs):
    before, after = (load_file(path / "model.safetensors") for path in (inputs / "model", exported))
    assert before.keys() == after.keys()
    assert all(before[name].shape == after[name].shape for name in before)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    model = AutoModelForCausalLM.from_pretrained(exported).eval()
    tokenizer = AutoTokenizer.from_pretrained(exported)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "red?"}], add_generation_prompt=True)
    answer = model.generate(torch.tensor([prompt]), max_new_tokens=3, do_sample=False)
    assert answer.shape[1] > len(prompt)


def test_a_checkpoint_becomes_a_nemo_file(trained, exported, tmp_path):
    newest = trained / "checkpoints" / "step-00000004"
    done = fork(EXPORT, ["--checkpoint", str(newest), "--out", str(tmp_path / "model.nemo")])
    assert done.returncode == 0, done.stderr
    opened = open_pretrained(str(tmp_path / "model.nemo"), str(tmp_path / "cache"))
    assert hash_weights(opened.weights) == hash_weights(exported)


def test_nothing_to_export(tmp_path):
    done = fork(EXPORT, ["--checkpoint", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_a_model_to_start_from(trained, inputs, tmp_path):
    checkpoint = trained / "checkpoints" / "step-00000004"
    done = train([*with_model(inputs, tmp_path, checkpoint), "trainer.mcpo.max_steps=1"], start=fork)
    assert done.returncode == 0, done.stderr
    line = metrics(tmp_path / "run")[0]
    assert line["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(line["rewards/margin"]) <= 1e-4


def test_a_wrong_key(inputs, tmp_path):
    line = failure([*overrides(inputs, tmp_path / "run"), "model.mcpo.betta=1"], code=2)
    assert line.startswith("model.mcpo.betta: ") and "(got 1, expected one of: " in line
    assert "model.mcpo.beta?" in line.partition("Fix: ")[2]


def test_a_missing_data_file(inputs, tmp_path):
    missing = tmp_path / "no" / "such.jsonl"
    line = failure(overrides(inputs, tmp_path / "run", model__data__train=missing), code=1)
    assert str(missing) in line
    assert "Fix: " in line


def test_a_line_that_is_not_json(inputs, tmp_path):
    lines = (inputs / "data.jsonl").read_text().splitlines()
    lines[6] = '{"prompt": "torn'
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    line = failure(overrides(inputs, tmp_path / "run", model__data__train=tmp_path / "data.jsonl"), code=1)
    assert f"{tmp_path / 'data.jsonl'}:7" in line


def test_fewer_prompts_than_a_batch(inputs, tmp_path):
    line = failure(overrides(inputs, tmp_path / "run", model__global_batch_size=25), code=1)
    assert line.startswith(f"{inputs / 'data.jsonl'}: ") and "(got 24 usable prompts, " in line
    assert "expected at least model.global_batch_size=25)" in line
    assert "lower model.global_batch_size" in line.partition("Fix: ")[2]


def test_more_negatives_than_any_prompt_has(inputs, tmp_path):
    line = failure(overrides(inputs, tmp_path / "run", model__mcpo__num_negatives=NUM_CANDIDATES + 1), code=2)
    assert line.startswith("model.mcpo.num_negatives: ")
    assert f"(got {NUM_CANDIDATES + 1}, expected at most {NUM_CANDIDATES})" in line
    assert "lower num_negatives" in line.partition("Fix: ")[2]


def test_a_model_without_weights(inputs, tmp_path):
    copy = model_copy(inputs, tmp_path)
    (copy / "model.safetensors").unlink()
    line = failure(with_model(inputs, tmp_path, copy), code=1)
    assert line.startswith(f"{copy}: no weights")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_model_of_an_unknown_architecture(inputs, tmp_path):
    copy = model_copy(inputs, tmp_path, model_type="mamba", architectures=["MambaForCausalLM"])
    line = failure(with_model(inputs, tmp_path, copy), code=1)
    assert str(copy) in line and "mamba" in line.lower()


def test_a_model_without_a_chat_template(inputs, tmp_path):
    copy = model_copy(inputs, tmp_path)
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    raw = json.loads((copy / "tokenizer_config.json").read_text())
    raw.pop("chat_template", None)
    (copy / "tokenizer_config.json").write_text(json.dumps(raw))
    line = failure(with_model(inputs, tmp_path, copy), code=1)
    assert line.startswith(f"{copy}: ") and "no chat template. Fix: " in line


def test_a_layout_that_does_not_divide_the_model(inputs, tmp_path):
    changes = {"model__pipeline_model_parallel_size": 2, "model__virtual_pipeline_model_parallel_size": 4}
    line = failure(overrides(inputs, tmp_path / "run", **changes), code=2, processes=2)
    assert "4 layers (got 8). Fix: " in line


@pytest.fixture
def small_disk(tmp_path):
    """A separate file system."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", disk], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_keeps_the_last_good_checkpoint(inputs, small_disk, trained):
    """The disk has the estimated space, but not enough for the padded vocabulary, so it fills up during the save."""
    run = small_disk / "run"

    def steps(count: int) -> list[str]:
        cache = {"model__data__cache_dir": inputs / "disk-cache"}
        return overrides(inputs, run, trainer__mcpo__max_steps=count, **cache)

    assert train(steps(2), start=fork).returncode == 0
    needed = 16 * read_architecture(inputs / "model").num_parameters
    spare = 64 * 1024
    (small_disk / "filler").write_bytes(b"\0" * (shutil.disk_usage(small_disk).free - needed - spare))
    line = failure(steps(4), code=1, processes=2)
    assert line.startswith(f"{run / 'checkpoints' / 'step-00000004'}: ") and "could not be written (got " in line
    assert "the last good checkpoint" in line.partition("Fix: ")[2]
    assert checkpoint_names(run) == ["step-00000002"]
    (small_disk / "filler").unlink()
    done = train(steps(4), start=fork)
    assert done.returncode == 0, done.stderr
    assert checkpoint_names(run) == ["step-00000002", "step-00000004"]
    for ours, theirs in zip(metrics(run), metrics(trained), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
