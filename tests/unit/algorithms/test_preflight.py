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
    return online(keys | changes)


@pytest.fixture(autouse=True)
def eight_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")


def test_a_run_that_fits(policy, judge):
    assert check_servers(a_run(policy, judge), A100S) == (
        "rollouts.server: 0.0 GiB of weights per GPU of 79 GiB, and cache for 187015 requests of 192 tokens",
        "judge.server: 32.9 GiB of weights per GPU of 79 GiB, and cache for 62 requests of 8192 tokens",
    )


@pytest.mark.parametrize(
    ("changes", "where", "got"),
    [
        (
            {"judge__server__tensor_parallel_size": 1},
            "judge.server",
            "131.4 GiB of weights per GPU of 79 GiB, 0.0 GiB for the cache",
        ),
        ({"judge__server__replicas": 3}, "judge.server.replicas", "3 of 4 GPUs each"),
        ({"rollouts__server__replicas": 9}, "rollouts.server.replicas", "9 of 1 GPUs each"),
        ({"rollouts__server__tensor_parallel_size": 8}, "rollouts.server.tensor_parallel_size", 8),
        ({"judge__server__max_num_tokens": 100}, "judge.server.max_num_tokens", 100),
        ({"judge__server__model": "/absent"}, "judge.server.model", "/absent"),
        ({"judge__server__command": ["/no/such"]}, "judge.server.command", "/no/such"),
        ({"rollouts__server__prefix": ["/no/enroot"]}, "rollouts.server.prefix", "/no/enroot"),
        ({"rollouts__server__environment": ["ABSENT"]}, "rollouts.server.environment", "ABSENT"),
        ({"judge__server__api_key_env": "ABSENT"}, "judge.server.api_key_env", "ABSENT"),
        ({"judge__kind": "rule", "judge__rule": "json:absent"}, "judge.rule", "json:absent"),
        ({"judge__kind": "reward_model", "judge__reward_model": "/x"}, "judge.reward_model", "/x"),
        ({"judge__server__urls": ["judge:8000"]}, "judge.server.urls", "judge:8000"),
    ],
)
def test_mistakes(policy, judge, changes, where, got):
    with pytest.raises(ConfigError) as caught:
        check_servers(a_run(policy, judge, **changes), A100S)
    assert (caught.value.where, caught.value.got) == (where, got) and caught.value.fix


def test_from_a_machine_without_gpus(policy, judge):
    """Programs and memory belong to another machine and are not checked; models and sizes are."""
    notes = check_servers(a_run(policy, judge, judge__server__command=["/image/trtllm-serve"]), LOGIN_NODE)
    assert [note.split(",")[0] for note in notes] == [
        "rollouts.server: GPU memory is unknown here",
        f"rollouts.server: {sys.executable} is checked where the servers run",
        "judge.server: GPU memory is unknown here",
        "judge.server: /image/trtllm-serve is checked where the servers run",
    ]
    with pytest.raises(ConfigError, match="too few GPUs") as caught:
        check_servers(a_run(policy, judge, judge__server__replicas=3), LOGIN_NODE)
    assert (caught.value.got, caught.value.expected) == ("3 of 4 GPUs each", "at most 8 GPUs")


def test_the_policies_of_an_evaluation(policy, judge):
    served = {"--policy": str(policy), "--baseline": "/absent"}
    with pytest.raises(ConfigError, match="no such directory") as caught:
        check_servers(a_run(policy, judge), A100S, served)
    assert (caught.value.where, caught.value.got) == ("--baseline", "/absent")


def enroot(path: Path, programs: str) -> str:
    """A prefix that starts a program with another PATH, as in an image."""
    path.write_text(f'#!/bin/sh\nPATH={programs} exec "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_program_in_an_image(policy, judge, tmp_path):
    changes = {"judge__server__command": ["trtllm-serve"]}
    image = enroot(tmp_path / "image", "/usr/bin:/bin")
    with pytest.raises(ConfigError, match="program not found") as caught:
        check_servers(a_run(policy, judge, judge__server__prefix=[image], **changes), A100S)
    assert caught.value.where == "judge.server.prefix"
    assert caught.value.got.startswith(f"{image} trtllm-serve: exit code ")
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
