# SPDX-License-Identifier: Apache-2.0
"""The command refuses what does not work, and its proposals fit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.planning.data_shape import DataShape
from nemo_mcpo.planning.gpus import GPUS
from nemo_mcpo.planning.search import DoesNotFitError, check_layout
from nemo_mcpo.planning.shapes import SHAPES
from nemo_mcpo.planning.workload import Question
from tests.support.configs import ROOT, checked
from tests.support.plan_command import SCRIPT, main, plan


def test_what_does_not_fit_is_refused_with_a_layout_that_fits(tmp_path):
    arguments = ["gpt_mcpo", "--model", "llama-3.1-8b", "--gpu", "A100-40"]
    with pytest.raises(DoesNotFitError, match=r"8 x A100-40: the run does not fit \(got .* GiB") as refusal:
        plan(
            tmp_path,
            *arguments,
            "model=llama3.1_8b",
            "model.tensor_model_parallel_size=1",
            "model.sequence_parallel=false",
        )
    proposed = [word for word in str(refusal.value).split() if word.startswith("model.")]
    assert len(proposed) == 7
    assert plan(tmp_path, *arguments, *proposed)["fits"]


def keys(advice: str) -> list[str]:
    """Return the overrides of the model that an error proposes."""
    return [word.rstrip(".,;") for word in advice.split() if word.startswith("model.")]


def test_how_many_gpus_are_needed(tmp_path):
    arguments = ["gpt_mcpo", "--model", "llama-3.1-70b"]
    with pytest.raises(DoesNotFitError, match="no layout fits on 8 GPUs: use 32 with") as refusal:
        plan(tmp_path, *arguments)
    more, offloaded = str(refusal.value).split("; or, on 8 GPUs, ")
    assert plan(tmp_path, *arguments, "--gpus", "32", *keys(more))["fits"]
    assert "model.optim.cpu_offload=true" in keys(offloaded) and "GB of host memory per node" in offloaded
    assert plan(tmp_path, *arguments, "--gpus", "8", *keys(offloaded))["fits"]


def test_layers_that_do_not_divide_leave_gpus_idle(tmp_path):
    arguments = ("--model", "llama-3.1-405b", "--gpu", "H200", "model.pipeline_model_parallel_size=2")
    with pytest.raises(
        DoesNotFitError, match=r"no layout fits on 128 GPUs: use 112 with .*pipeline_model_parallel_size=7"
    ):
        plan(tmp_path, *arguments, "--gpus", "128")


def test_rules_are_those_of_training(tmp_path):
    with pytest.raises(ConfigError, match="do not divide evenly into model replicas"):
        plan(tmp_path, "gpt_mcpo", "--model", "llama-3.1-8b", "--gpus", "6")
    with pytest.raises(ConfigError, match="does not divide the model's 126 layers"):
        plan(tmp_path, "--model", "llama-3.1-405b", "--gpus", "16", "model.pipeline_model_parallel_size=4")
    with pytest.raises(ConfigError, match="--gpu: unknown name"):
        plan(tmp_path, "--model", "llama-3.1-8b", "--gpu", "V100")
    with pytest.raises(ConfigError, match=r"no model to plan for.*--model"):
        plan(tmp_path, "gpt_mcpo")


def test_exit_codes():
    command = [sys.executable, str(SCRIPT), "--model", "llama-3.1-70b"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "DOES NOT FIT" in done.stdout
    assert done.stderr.startswith("error: 8 x A100-80: the run does not fit") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--completion-length 100000", r"--completion-length: .*got 100121, .*model\.data\.max_length=4096"),
        ("--prompt-length inf", "--prompt-length: impossible lengths .*inf"),
        ("--completion-length nan", "impossible lengths .*nan"),
        ("model.micro_batch_tokens=64", "model.micro_batch_tokens: a row's budget is smaller than one prompt"),
        ("model.mcpo.num_negatives=50", r"more negatives than candidates \(got 50, expected at most 5\)"),
        ("--candidates 0", "--candidates: no candidates"),
        ("--candidates -3", "--candidates: no candidates"),
        ("--prompts 10", "--prompts: fewer prompts than one global batch"),
        ("--hfu 2", r"--hfu: out of range \(got 2.0, expected above 0, at most 1\)"),
        ("--hfu nan", "--hfu: out of range"),
        ("--write-gbs 0", "--write-gbs: out of range"),
        ("--gpus 0", "--gpus: not a number of GPUs"),
        ("--prepared /", "--prepared: not a prepared dataset .*scripts/prepare_data.py"),
        ("--json /", "--json: cannot write .*Is a directory"),
        ("--json /proc/nothing/plan.json", "--json: cannot write .*No such file"),
        ("--table --gpus 8", "--gpus --model: would be ignored with --table"),
        ("model.fp8=hybrid", "model.fp8: this GPU has no FP8"),
    ],
)
def test_what_is_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        main(["--model", "llama-3.1-8b", *words.split()])


@pytest.mark.parametrize(
    "words", ["--gpus 1", "--gpus 6", "--gpus 1024", "--gpus 16 model.tensor_model_parallel_size=16"]
)
def test_a_layout_that_does_not_divide_gets_one_that_does(tmp_path, words):
    arguments = ["--model", "qwen2.5-7b", *words.split()]
    with pytest.raises(ConfigError, match=r"; for \d+ GPUs: model\.tensor") as refusal:
        plan(tmp_path, *arguments)
    message = str(refusal.value)
    count = message.split(" GPUs: ")[0].split()[-1]
    proposed = [word.rstrip(".") for word in message.split(" GPUs: ")[1].split()]
    assert plan(tmp_path, *arguments, *proposed, "--gpus", count)["fits"]


def test_tensor_parallelism_stays_within_a_node():
    question = Question(replace(SHAPES["llama-3.1-8b"], num_query_groups=32), DataShape(), GPUS["H100"])
    config = checked({"model.tensor_model_parallel_size": 16}, 16)
    with pytest.raises(
        ConfigError, match=r"^model\.tensor_model_parallel_size: .*crosses nodes \(got 16.*; for 16 GPUs: model"
    ):
        check_layout(config, question, 16)
