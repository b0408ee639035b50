# SPDX-License-Identifier: Apache-2.0
"""What all commands share: exit codes, one line before any traceback, configuration from YAML and overrides."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nemo_mcpo.algorithms.configuration import load_run_config
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.platform.command import world_size_from_environment
from tests.support.configs import CONF, MANDATORY, ROOT

PROGRAM = """
import sys
from nemo_mcpo.errors import *
from nemo_mcpo.platform.command import run_command

def main(argv):
    print("begun", argv)
    {body}

run_command(main, ["a=1"])
"""


def run_main(body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.replace("{body}", body)
    env = os.environ | environment
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("body", "code", "first_line"),
    [
        ("pass", 0, ""),
        ("sys.exit(75)", 75, ""),
        ("raise ConfigError('bad', where='a.b', fix='set it')", 2, "error: a.b: bad. Fix: set it."),
        ("raise DataError('bad', where='f:7')", 1, "error: f:7: bad"),
        ("raise CheckpointError('bad')", 1, "error: bad"),
        ("raise ValueError('two\\nlines')", 1, "error: ValueError: two lines"),
        ("raise KeyboardInterrupt", 130, "error: interrupted"),
    ],
)
def test_exit_codes_and_first_line(body, code, first_line):
    done = run_main(body)
    assert done.returncode == code
    assert done.stdout == "begun ['a=1']\n"
    assert done.stderr.split("\n")[0] == first_line


def test_only_unexpected_errors_have_a_traceback():
    assert "Traceback" not in run_main("raise DataError('bad')").stderr
    assert run_main("raise ValueError('bad')").stderr.split("\n")[1].startswith("Traceback")


def test_other_ranks_do_not_repeat_a_configuration_error():
    assert run_main("raise ConfigError('bad')", RANK="1").stderr == ""
    assert run_main("raise DataError('bad')", RANK="1").stderr == "[rank 1] error: bad\n"


GLOO = "raise RuntimeError('[/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error')"
IN_A_COLLECTIVE = "exec(compile('1 / 0', '/env/torch/distributed/distributed_c10d.py', 'exec'))"


@pytest.mark.parametrize(
    ("body", "left"),
    [("raise DataError('x')", True), ("1 / 0", True), ("pass", False), (IN_A_COLLECTIVE, False), (GLOO, False)],
)
def test_a_rank_that_fails_by_itself_marks_its_job(tmp_path, body, left):
    run_main(body, NEMO_MCPO_FAILURE=str(tmp_path / "failed"))
    assert (tmp_path / "failed").exists() == left


def test_world_size(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert world_size_from_environment() == 1
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert world_size_from_environment() == 8


def load(*argv: str, name: str = "tiny_cpu"):
    return load_run_config(argv, config_dir=CONF, config_name=name, world_size=1)


def test_overrides():
    config = load(*MANDATORY, "model.optim.lr=3e-6", "model.mcpo.num_negatives=3", "model.data.drop_ranks=[2,3]")
    assert (config.model.optim.lr, config.model.mcpo.num_negatives) == (3e-6, 3)
    assert config.model.data.drop_ranks == [2, 3]
    assert config.model.data.train == "prompts.jsonl"


def test_a_group_is_selected_by_name():
    config = load(
        *MANDATORY, "model=mistral_7b", "model.tensor_model_parallel_size=1", "model.sequence_parallel=false"
    )
    assert config.model.activations_checkpoint_granularity == "full"
    assert (config.model.data.max_prompt_length, config.model.data.max_length) == (2048, 4096)


def test_config_path_and_name(tmp_path):
    (tmp_path / "mine.yaml").write_text((CONF / "gpt_mcpo.yaml").read_text().replace("  - model: llama3.1_8b", ""))
    for argv in (
        ["--config-path", str(tmp_path), "--config-name", "mine"],
        [f"--config-path={tmp_path}", "--config-name=mine.yaml"],
        ["-cp", str(tmp_path), "-cn", "mine"],
    ):
        assert load(*argv, *MANDATORY, name="nothing").model.global_batch_size == 128


def test_options_between_overrides():
    config = load(MANDATORY[0], "--config-name", "tiny_cpu", MANDATORY[1], name="gpt_mcpo")
    assert config.exp_manager.name == "tiny_cpu"


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["model.data.train"], ["command line: not an override (got model.data.train, expected key=value)"]),
        (["--config-name", "no_such"], ["no_such: the configuration cannot be composed", "Fix: check --config-path"]),
        (["--config-path", "no/such"], ["no/such", "the configuration cannot be composed"]),
        (["model=no_such"], ["the configuration cannot be composed", "no_such"]),
        (["model.data.train=${nothing.here}"], ["the configuration cannot be composed", "nothing.here"]),
        (["model.data.train=[1,"], ["the configuration cannot be composed"]),
        (MANDATORY[1:], ["model.data.train: missing key. Fix: set model.data.train=… on the command line"]),
        (MANDATORY[:1], ["pretrained_checkpoint.restore_from_path: missing key. Fix: set "]),
        (
            [*MANDATORY, "model.optim.betas=0.9"],
            ["model.optim.betas: not a valid value (got 0.9, expected a valid list"],
        ),
    ],
)
def test_what_cannot_be_composed(argv, parts):
    with pytest.raises(ConfigError) as caught:
        load(*argv)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
