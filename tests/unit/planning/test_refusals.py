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
    with pytest.raises(DoesNotFitError) as refusal:
        plan(
            tmp_path,
            *arguments,
            "model=llama3.1_8b",
            "model.tensor_model_parallel_size=1",
            "model.sequence_parallel=false",
        )
    assert refusal.value.where == "8 x A100-40" and " GiB" in refusal.value.got
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
    with pytest.raises(DoesNotFitError, match="no layout fits on 128 GPUs") as refusal:
        plan(tmp_path, *arguments, "--gpus", "128")
    assert "use 112 with" in refusal.value.fix and "model.pipeline_model_parallel_size=7" in keys(refusal.value.fix)


def test_rules_are_those_of_training(tmp_path):
    with pytest.raises(ConfigError, match="do not divide evenly") as caught:
        plan(tmp_path, "gpt_mcpo", "--model", "llama-3.1-8b", "--gpus", "6")
    assert (caught.value.got, caught.value.expected) == ("4 x 1", "a divisor of 6 processes")
    with pytest.raises(ConfigError, match="126 layers") as caught:
        plan(tmp_path, "--model", "llama-3.1-405b", "--gpus", "16", "model.pipeline_model_parallel_size=4")
    assert (caught.value.where, caught.value.got) == ("model.pipeline_model_parallel_size", 4)
    with pytest.raises(ConfigError) as caught:
        plan(tmp_path, "--model", "llama-3.1-8b", "--gpu", "V100")
    assert (caught.value.where, caught.value.got) == ("--gpu", "V100")
    with pytest.raises(ConfigError, match="no model to plan for") as caught:
        plan(tmp_path, "gpt_mcpo")
    assert "--model" in caught.value.fix


def test_exit_codes():
    command = [sys.executable, str(SCRIPT), "--model", "llama-3.1-70b"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "DOES NOT FIT" in done.stdout
    assert done.stderr.startswith("error: 8 x A100-80: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "where", "got", "expected"),
    [
        ("--completion-length 100000", "--completion-length", "100121", "at most model.data.max_length=4096"),
        ("--prompt-length inf", "--prompt-length", "inf and 1", "above 0"),
        ("--completion-length nan", "--prompt-length", "121 and nan", "above 0"),
        ("model.micro_batch_tokens=64", "model.micro_batch_tokens", "64", "at least 121"),
        ("model.mcpo.num_negatives=50", "model.mcpo.num_negatives", "50", "at most 5"),
        ("--candidates 0", "--candidates", "0", "at least 1"),
        ("--candidates -3", "--candidates", "-3", "at least 1"),
        ("--prompts 10", "--prompts", "10", "at least model.global_batch_size=128"),
        ("--hfu 2", "--hfu", "2.0", "above 0, at most 1"),
        ("--hfu nan", "--hfu", "nan", "above 0, at most 1"),
        ("--write-gbs 0", "--write-gbs", "0.0", "above 0, at most 1e+06"),
        ("--gpus 0", "--gpus", "0", "None"),
        ("--prepared /", "--prepared", "/", "None"),
        ("--json /", "--json", "/: Is a directory", "None"),
        ("--json /proc/nothing/plan.json", "--json", "/proc/nothing/plan.json: No such file or directory", "None"),
        ("--table --gpus 8", "--gpus --model", "None", "None"),
        (
            "model.fp8=hybrid",
            "model.fp8",
            "hybrid on A100-80, compute capability 8.0",
            "at least 8.9 (H100, H200, L40)",
        ),
    ],
)
def test_what_is_refused(words, where, got, expected):
    with pytest.raises(ConfigError) as caught:
        main(["--model", "llama-3.1-8b", *words.split()])
    error = caught.value
    assert (error.where, str(error.got), str(error.expected)) == (where, got, expected) and error.fix


def test_the_fix_names_the_script_and_the_flag():
    for words, named in (("--prepared /", "scripts/prepare_data.py"), ("--table --gpus 8", "--table")):
        with pytest.raises(ConfigError) as caught:
            main(["--model", "llama-3.1-8b", *words.split()])
        assert named in caught.value.fix


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
    with pytest.raises(ConfigError, match="crosses nodes") as caught:
        check_layout(config, question, 16)
    assert (caught.value.where, caught.value.got) == ("model.tensor_model_parallel_size", 16)
    assert "; for 16 GPUs: model." in caught.value.fix
