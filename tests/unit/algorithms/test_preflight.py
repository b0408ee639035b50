# SPDX-License-Identifier: Apache-2.0
"""Anything missing or unfit is reported before the first stage, on this machine or for the nodes of a cluster."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from nemo_mcpo.algorithms.preflight import check_servers, run_rows, this_machine
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.models.huggingface.tiny import make_tiny_model
from nemo_mcpo.platform import accelerator
from nemo_mcpo.rollouts.fit import Machine
from tests.support.configs import CONF, online
from tests.support.served import write_model

A100S = Machine(8, 79.1, is_here=True)
LOGIN_NODE = Machine(8, None, is_here=False)


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    """A small model with four heads."""
    root = tmp_path_factory.mktemp("policy")
    (root / "text").write_text("red blue seven twelve")
    make_tiny_model(root / "text", root / "model", "1m", 1, "llama", 300, "float32")
    return root / "model"


@pytest.fixture
def judge(tmp_path) -> Path:
    return write_model(tmp_path / "judge-70b")


def a_run(policy: Path, judge: Path, **changes):
    """A run that starts servers for the policy and a 70B judge; ``python`` stands in for their program."""
    keys = {
        "pretrained_checkpoint.restore_from_path": str(policy),
        "rollouts.engine": "openai",
        "rollouts.server.command": [sys.executable],
        "judge.kind": "openai",
        "judge.server.model": str(judge),
        "judge.server.command": [sys.executable],
        "judge.server.tensor_parallel_size": 4,
        "judge.server.max_seq_len": 8192,
    }
    return online(keys | {key.replace("__", "."): value for key, value in changes.items()})


@pytest.fixture(autouse=True)
def eight_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")


def test_a_run_that_fits(policy, judge):
    assert check_servers(a_run(policy, judge), A100S) == (
        "rollouts.server: 0.0 GiB of weights per GPU of 79 GiB, and cache for 187015 requests of 192 tokens",
        "judge.server: 32.9 GiB of weights per GPU of 79 GiB, and cache for 62 requests of 8192 tokens",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge__server__tensor_parallel_size": 1}, r"judge\.server: the model and the cache"),
        ({"judge__server__replicas": 3}, r"judge\.server\.replicas: .*got 3 of 4 GPUs each, expected at most 8"),
        ({"rollouts__server__replicas": 9}, r"rollouts\.server\.replicas: too few GPUs"),
        ({"rollouts__server__tensor_parallel_size": 8}, r"rollouts\.server\.tensor_parallel_size: the attention"),
        ({"judge__server__max_num_tokens": 100}, r"judge\.server\.max_num_tokens: a prompt may not fit into one step"),
        ({"judge__server__model": "/absent"}, r"judge\.server\.model: no such directory"),
        ({"judge__server__command": ["/no/such"]}, r"judge\.server\.command: program not found .*got /no/such"),
        ({"rollouts__server__prefix": ["/no/enroot"]}, r"rollouts\.server\.prefix: program not found"),
        ({"rollouts__server__environment": ["ABSENT"]}, r"rollouts\.server\.environment: the variable is not set"),
        ({"judge__server__api_key_env": "ABSENT"}, r"judge\.server\.api_key_env: the variable is not set"),
        ({"judge__kind": "rule", "judge__rule": "json:absent"}, r"judge\.rule: no such function"),
        ({"judge__kind": "reward_model", "judge__reward_model": "/x"}, r"judge\.reward_model: no such dir"),
        ({"judge__server__urls": ["judge:8000"]}, r"judge\.server\.urls: not a URL"),
    ],
)
def test_mistakes(policy, judge, changes, message):
    with pytest.raises(ConfigError, match=f"^{message}.*Fix: "):
        check_servers(a_run(policy, judge, **changes), A100S)


def test_from_a_machine_without_gpus(policy, judge):
    """Programs and memory belong to another machine and are not checked; models and sizes are."""
    notes = check_servers(a_run(policy, judge, judge__server__command=["/image/trtllm-serve"]), LOGIN_NODE)
    assert [note.split(",")[0] for note in notes] == [
        "rollouts.server: GPU memory is unknown here",
        f"rollouts.server: {sys.executable} is checked where the servers run",
        "judge.server: GPU memory is unknown here",
        "judge.server: /image/trtllm-serve is checked where the servers run",
    ]
    with pytest.raises(ConfigError, match="too few GPUs"):
        check_servers(a_run(policy, judge, judge__server__replicas=3), LOGIN_NODE)


def test_the_policies_of_an_evaluation(policy, judge):
    served = {"--policy": str(policy), "--baseline": "/absent"}
    with pytest.raises(ConfigError, match=r"^--baseline: no such directory"):
        check_servers(a_run(policy, judge), A100S, served)


def enroot(path: Path, programs: str) -> str:
    """A prefix that starts a program with another PATH, as in an image."""
    path.write_text(f'#!/bin/sh\nPATH={programs} exec "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_program_in_an_image(policy, judge, tmp_path):
    changes = {"judge__server__command": ["trtllm-serve"]}
    image = enroot(tmp_path / "image", "/usr/bin:/bin")
    with pytest.raises(ConfigError, match=r"judge\.server\.prefix: program not found.*trtllm-serve: exit code"):
        check_servers(a_run(policy, judge, judge__server__prefix=[image], **changes), A100S)
    (tmp_path / "bin").mkdir()
    enroot(tmp_path / "bin" / "trtllm-serve", "")
    image = enroot(tmp_path / "image", f"/usr/bin:/bin:{tmp_path}/bin")
    assert len(check_servers(a_run(policy, judge, judge__server__prefix=[image], **changes), A100S)) == 2


def test_what_nvidia_smi_says(monkeypatch):
    lines = "0, A, 81920, 1, 8.0, 550\n1, B, 40960, 1, 8.0, 550\n2, C, [N/A], [N/A], 9.0, 550\n"
    monkeypatch.setattr("nemo_mcpo.algorithms.preflight.query_gpus", lambda: (lines, ""))
    assert this_machine(online({"trainer.accelerator": "auto"})) == Machine(8, 40.0, is_here=True)
    assert this_machine(online({"trainer.accelerator": "cpu"})) == Machine(0, None, is_here=True)
    monkeypatch.setattr("nemo_mcpo.algorithms.preflight.query_gpus", lambda: ("", "no driver"))
    assert this_machine(online({"trainer.accelerator": "auto"})).gibibytes is None
    assert accelerator.count_gpus() == 8


def test_doctor_s_row_about_a_run(policy, judge):
    words = ["gpt_onmcpo", "model.data.train=x.jsonl", f"pretrained_checkpoint.restore_from_path={policy}"]
    (row,) = run_rows([*words, f"judge.server.model={judge}", "judge.server.command=[/no/such]"], CONF)
    assert (row.status, row.required) == ("broken", True) and row.reason.startswith("judge.server")
    (row,) = run_rows(["gpt_mcpo", *words[1:]], CONF)
    assert row.status == "ok"
    (row,) = run_rows([*words, "nonsense=1"], CONF)
    assert row.reason.startswith("nonsense: unknown key")
