# SPDX-License-Identifier: Apache-2.0
"""The command: what it prints, what it refuses, and that what it proposes fits."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys

import pytest

from nemo_mcpo.data.prepare import prepare_dataset
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.planning.gpus import GPUS, peak_flops
from nemo_mcpo.planning.memory import GIB
from nemo_mcpo.planning.search import DoesNotFitError
from tests.support.configs import CONF, ROOT
from tests.support.small_run import write_tokens

SCRIPT = ROOT / "scripts" / "plan.py"
main = runpy.run_path(str(SCRIPT))["main"]


def plan(tmp_path, *arguments: str) -> dict:
    """The plan as JSON."""
    main([*arguments, "--json", str(tmp_path / "plan.json")])
    return json.loads((tmp_path / "plan.json").read_text())


def test_8b_by_hand(tmp_path, capsys):
    found = plan(tmp_path, "gpt_mcpo", "--model", "llama-3.1-8b", "model.data.max_candidates=4")
    memory, parameters = found["memory"], 2_007_764_992  # a quarter, but for the norms
    assert memory["parameters"] == parameters
    assert (memory["weights"], memory["gradients"], memory["optimizer"]) == (
        2 * parameters, 4 * parameters, 12 * parameters / 2
    )  # fmt: skip
    assert memory["saving"] == 4 * parameters * 1.5
    assert memory["recorded"] == 32 * 20 * (121 + 5 * 288) * 4096 / 4 * 2  # 20 prompts in rows of 32,768 tokens
    assert found["time"]["checkpoint_bytes"] == 14 * found["parameters"]
    assert found["time"]["steps"] == 2 * 183_000 // 128
    flops = found["time"]["step_flops"]
    assert found["time"]["step_seconds"] == pytest.approx(flops / (8 * 312e12 * 0.4))
    printed = capsys.readouterr().out
    assert f"peak              {memory['peak'] / GIB:.1f}" in printed
    assert "estimated at 40% MFU (not measured)" in printed


def test_the_example_of_the_documentation(capsys):
    main(["gpt_mcpo", "--gpus", "8", "--gpu", "A100-80", "--model", "llama-3.1-8b"])
    assert capsys.readouterr().out in (ROOT / "docs" / "planning.md").read_text()


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
    assert len(proposed) == 6
    assert plan(tmp_path, *arguments, *proposed)["fits"]


def test_how_many_gpus_are_needed(tmp_path):
    arguments = ["gpt_mcpo", "--model", "llama-3.1-70b"]
    with pytest.raises(DoesNotFitError, match="no layout fits on 8 GPUs: use 32 with") as refusal:
        plan(tmp_path, *arguments)
    proposed = [word.rstrip(".") for word in str(refusal.value).split() if word.startswith("model.")]
    assert plan(tmp_path, *arguments, "--gpus", "32", *proposed)["fits"]


def test_layers_that_do_not_divide_leave_gpus_idle(tmp_path):
    arguments = ("--model", "llama-3.1-405b", "--gpu", "H200", "model.pipeline_model_parallel_size=2")
    with pytest.raises(
        DoesNotFitError, match=r"no layout fits on 128 GPUs: use 112 with .*pipeline_model_parallel_size=7"
    ):
        plan(tmp_path, *arguments, "--gpus", "128")


def test_rules_are_those_of_training(tmp_path):
    with pytest.raises(ConfigError, match="do not divide into model replicas"):
        plan(tmp_path, "gpt_mcpo", "--model", "llama-3.1-8b", "--gpus", "6")
    with pytest.raises(ConfigError, match="does not divide the model's 126 layers"):
        plan(tmp_path, "--model", "llama-3.1-405b", "--gpus", "16", "model.pipeline_model_parallel_size=4")
    with pytest.raises(ConfigError, match="--gpu: unknown GPU"):
        plan(tmp_path, "--model", "llama-3.1-8b", "--gpu", "V100")
    with pytest.raises(ConfigError, match=r"no model to plan for.*--model"):
        plan(tmp_path, "gpt_mcpo")


def test_a_directory_and_every_configuration(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 4,
                "hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 4,
                "vocab_size": 1024, "max_position_embeddings": 4096,
            }
        )
    )  # fmt: skip
    for path in sorted(CONF.glob("*.yaml")):
        found = plan(
            tmp_path,
            path.stem,
            f"pretrained_checkpoint.restore_from_path={tmp_path}",
            *(["judge.server.model=judge"] if "onmcpo" in path.stem else []),
        )
        assert found["fits"], path
        assert found["parameters"] == 2 * 1024 * 128 + 4 * (4 * 128 * 128 + 3 * 128 * 384 + 2 * 128) + 128


def test_exit_codes():
    command = [sys.executable, str(SCRIPT), "--model", "llama-3.1-70b"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "DOES NOT FIT" in done.stdout
    assert done.stderr.startswith("error: 8 x A100-80: the run does not fit") and done.stderr.count("\n") == 1


def test_peaks_by_the_name_of_a_device():
    assert peak_flops("NVIDIA H100 80GB HBM3") == GPUS["H100"].bf16_flops == 989e12
    assert peak_flops("cpu") is None


def test_lengths_of_a_prepared_dataset(tmp_path):
    dataset = prepare_dataset(
        data=str(write_tokens(tmp_path / "data.jsonl", num_prompts=9)), data_format="tokens", tokenizer_dir=None,
        vocab_size=300, max_prompt_length=32, max_length=64, drop_ranks=[], max_candidates=None,
        cache_dir=str(tmp_path), progress=False,
    )  # fmt: skip
    data = plan(tmp_path, "--model", "llama-3.2-1b", "--prepared", str(dataset.directory))["data"]
    assert (data["prompts"], data["candidates"]) == (9, 4)
    assert data["prompt_length"] == pytest.approx(dataset.prompt_lengths.mean())
    assert data["longest"] == max(tree.num_tokens for tree in dataset)
