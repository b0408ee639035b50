# SPDX-License-Identifier: Apache-2.0
"""The command: its output and its numbers."""

from __future__ import annotations

import json
import re

import pytest

from nemo_mcpo.data.prepare import prepare_dataset
from nemo_mcpo.data.prepared import PreparedDataset
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.planning.gpus import GPUS, peak_flops
from nemo_mcpo.planning.memory import GIB
from nemo_mcpo.planning.search import DoesNotFitError
from tests.support.configs import CONF, ROOT
from tests.support.plan_command import main, plan
from tests.support.small_run import write_tokens


def test_8b_by_hand(tmp_path, capsys):
    found = plan(tmp_path, "gpt_mcpo", "--model", "llama-3.1-8b", "model.data.max_candidates=4")
    memory, parameters = found["memory"], 2_007_764_992  # a quarter, except for the norms
    assert memory["parameters"] == parameters
    assert (memory["weights"], memory["gradients"], memory["optimizer"]) == (
        2 * parameters, 4 * parameters, 12 * parameters / 2
    )  # fmt: skip
    assert memory["saving"] == 4 * 2**25 * 1.5
    assert memory["recorded"] == 32 * 20 * (121 + 5 * 288) * 4096 / 4 * 2  # 20 prompts in rows of 32,768 tokens
    assert found["time"]["checkpoint_bytes"] == 14 * found["parameters"]
    assert found["time"]["steps"] == 2 * 183_000 // 128
    flops = found["time"]["step_flops"]
    assert found["time"]["step_seconds"] == pytest.approx(flops / (8 * 312e12 * 0.4))
    printed = capsys.readouterr().out
    assert re.search(rf"^peak +{memory['peak'] / GIB:.1f} ", printed, re.MULTILINE)
    assert "40% of their peak (assumed, not measured)" in printed


def test_the_example_of_the_documentation(capsys):
    main(["gpt_mcpo", "--gpus", "8", "--gpu", "A100-80", "--model", "llama-3.1-8b"])
    assert capsys.readouterr().out in (ROOT / "docs" / "planning.md").read_text()


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
        found = plan(tmp_path, path.stem, f"pretrained_checkpoint.restore_from_path={tmp_path}")
        assert found["fits"], path
        assert found["parameters"] == 2 * 1024 * 128 + 4 * (4 * 128 * 128 + 3 * 128 * 384 + 2 * 128) + 128


def test_peaks_by_the_name_of_a_device():
    assert peak_flops("NVIDIA H100 80GB HBM3") == GPUS["H100"].bf16_flops == 989e12
    assert peak_flops("cpu") is None


@pytest.fixture
def prepared(tmp_path) -> PreparedDataset:
    """Nine prompts with five completions each."""
    return prepare_dataset(
        data=str(write_tokens(tmp_path / "data.jsonl", num_prompts=9)), data_format="tokens", tokenizer_dir=None,
        vocab_size=300, max_prompt_length=32, max_length=64, drop_ranks=[], max_candidates=None,
        cache_dir=str(tmp_path), progress=False,
    )  # fmt: skip


def test_lengths_of_a_prepared_dataset(tmp_path, prepared):
    arguments = ["--model", "llama-3.2-1b", "--prepared", str(prepared.directory), "model.global_batch_size=8"]
    data = plan(tmp_path, *arguments)["data"]
    assert (data["prompts"], data["candidates"], data["most_candidates"]) == (9, 4, 4)
    assert data["prompt_length"] == pytest.approx(prepared.prompt_lengths.mean())
    assert data["longest"] == max(tree.num_tokens for tree in prepared)
    lengths = [(len(tree.prompt_tokens), [len(answer) for answer in tree.completions]) for tree in prepared]
    assert data["longest_trained"] == max(prompt + answers[0] + max(answers) for prompt, answers in lengths)
    with pytest.raises(ConfigError, match="ignored with --prepared") as ignored:
        plan(tmp_path, *arguments, "--prompts", "300")
    assert ignored.value.where == "--prompts"
    with pytest.raises(ConfigError, match="fewer prompts") as few:
        plan(tmp_path, *arguments, "model.global_batch_size=10")
    assert (few.value.where, few.value.got) == ("--prompts", 9)


def test_a_mean_prompt_above_the_row(tmp_path):
    """The largest row is the prompt with its six completions, for any budget."""
    arguments = ["--model", "llama-3.1-8b", "--completion-length", "3000", "model.mcpo.num_negatives=5"]
    rows = [
        plan(tmp_path, *arguments, f"model.micro_batch_tokens={budget}")["memory"] for budget in (8192, 121 + 6 * 3000)
    ]
    assert rows[0]["backward"] == rows[1]["backward"]
    with pytest.raises(DoesNotFitError, match=r"activations_checkpoint_granularity=full"):
        plan(
            tmp_path, *arguments, "model.tensor_model_parallel_size=2", "model.activations_checkpoint_granularity=null"
        )


def test_fp8_copies_weights(tmp_path):
    """A copy of the layers' weights and its transpose: two bytes per parameter."""
    arguments = ("--model", "llama-3.1-8b", "--gpu", "H100", "model.mcpo.reuse_scoring=false")
    copied, plain = plan(tmp_path, *arguments, "model.fp8=hybrid")["memory"], plan(tmp_path, *arguments)["memory"]
    norms = 2 * 4096
    layers = 32 * ((4096 * (4096 + 2 * 1024) + 4096**2 + 3 * 4096 * 14336) / 4 + norms)
    assert copied["weights"] - plain["weights"] == 2 * layers


def test_the_number_of_gpus_is_the_configuration_s(tmp_path):
    arguments = ("--model", "llama-3.2-1b", "trainer.num_nodes=2")
    assert plan(tmp_path, *arguments)["num_gpus"] == 16
    assert plan(tmp_path, *arguments, "trainer.devices=4")["num_gpus"] == 8
    with pytest.raises(ConfigError) as refusal:
        plan(tmp_path, *arguments, "trainer.devices=4", "--gpus", "16")
    error = refusal.value
    assert (error.where, error.got, error.expected) == ("trainer.devices", "2 nodes x 4 devices", "16 processes")
    assert "model.tensor" not in str(refusal.value)


def test_candidates_of_an_online_run(tmp_path):
    arguments = ("gpt_onmcpo", "--model", "llama-3.1-8b", "rollouts.samples=20")
    assert plan(tmp_path, *arguments)["data"]["candidates"] == 3 * 20 - 1
    assert plan(tmp_path, *arguments, "--candidates", "7")["data"]["candidates"] == 7


def test_a_negative_that_comes_twice_is_packed_twice(tmp_path):
    arguments = ("--model", "llama-3.1-8b", "--candidates", "2", "model.mcpo.replacement=true")
    many, few = (plan(tmp_path, *arguments, f"model.mcpo.num_negatives={count}")["time"] for count in (6, 5))
    assert many["step_tokens"] == 128 * (121 + 7 * 288)
    assert many["step_flops"] > few["step_flops"]


def test_a_configuration_of_one_s_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("defaults: [gpt_onmcpo, _self_]\nrollouts: {samples: 3}\n")
    found = plan(tmp_path, "--model", "llama-3.1-8b", "--config-path", str(tmp_path), "--config-name", "mine")
    assert found["data"]["candidates"] == 8
    assert plan(tmp_path, "gpt_mcpo.yaml", "--model", "llama-3.1-8b")["fits"]


def test_the_mfu_excludes_recompute_and_includes_idle_time(tmp_path):
    """Without recompute, reuse and pipeline it equals the assumed HFU, except for a head that runs again."""
    arguments = ("--model", "llama-3.2-1b", "model.activations_checkpoint_granularity=null", "--gpus", "8")
    time = plan(tmp_path, *arguments, "model.micro_batch_tokens=2048", "--hfu", "0.3")["time"]
    assert time["mfu"] == pytest.approx(0.3)
    time = plan(tmp_path, *arguments, "model.activations_checkpoint_granularity=full", "--hfu", "0.3")["time"]
    assert time["mfu"] < 0.27


def test_host_memory_of_a_node(tmp_path, capsys):
    """The first replica's states and weights, and all replicas' offloaded shares."""
    arguments = ("--model", "llama-3.2-1b", "--gpus", "6", "model.tensor_model_parallel_size=2")
    kept = plan(tmp_path, *arguments)
    assert kept["host_bytes"] == pytest.approx(2 * (12 + 2) * kept["memory"]["parameters"], rel=1e-4)
    assert f"{kept['host_bytes'] / 1e9:,.0f} GB" in capsys.readouterr().out
    offloaded = plan(tmp_path, *arguments, "model.optim.cpu_offload=true")
    assert offloaded["memory"]["optimizer"] == 0
    shares = 2 * 12 * kept["memory"]["parameters"]  # three replicas of two slices
    assert offloaded["host_bytes"] - kept["host_bytes"] == pytest.approx(shares * 4 / 3, rel=1e-4)
    seconds = 2 * shares / 6 / 25e9
    slower = offloaded["time"]["step_seconds"] - kept["time"]["step_seconds"]
    assert slower == pytest.approx(offloaded["time"]["offload_seconds"]) == pytest.approx(seconds, rel=1e-4)


def test_fine_tuning_has_no_reference(capsys):
    main(["quickstart_sft", "--model", "llama-3.2-1b"])
    assert "reference  " not in capsys.readouterr().out
