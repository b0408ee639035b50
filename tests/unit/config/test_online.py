# SPDX-License-Identifier: Apache-2.0
"""The rules of an online run's keys, with the key, the value and the cure that the message names."""

from __future__ import annotations

from typing import get_args

import pytest

from nemo_mcpo.algorithms import online_stages
from nemo_mcpo.algorithms.onmcpo import STAGES
from nemo_mcpo.config import OnlineRunConfig, online as schema
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.rollouts.launchers import LAUNCHERS
from tests.support.configs import compose_online, online

SMALL_JUDGE = {"judge.kind": "openai", "judge.server.model": "j", "judge.server.max_seq_len": 99}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollouts.max_tokens": 129}, "rollouts.max_tokens: answers would be cut"),
        ({"rollouts.temperatures": [0.6, 0.6]}, "rollouts.temperatures: the same temperature twice"),
        ({"rollouts.temperatures": [0.0]}, "rollouts.temperatures.0: not a valid value"),
        ({"rollouts.temperatures": [1.0]}, "rollouts.samples: fewer answers than the objective needs"),
        ({"rollouts.samples": 0}, "rollouts.samples: not a valid value"),
        ({"rollouts.engine": "vllm"}, "rollouts.engine: not a valid value"),
        ({"model.mcpo.sampler": "given"}, "model.mcpo.sampler: a policy's own answers have no given"),
        ({"judge.rule": None}, "judge.rule: the rule judge is missing"),
        ({"judge.rule": "rules.score"}, "judge.rule: not the name of a function"),
        ({"judge.kind": "reward_model"}, "judge.reward_model: the reward_model judge is missing"),
        ({"judge.kind": "openai"}, "judge.server.model: the openai judge is missing"),
        (
            {"judge.kind": "openai", "judge.server.model": "j", "judge.server.max_seq_len": 99},
            "judge.server.max_seq_len: a q",
        ),
        (
            {"rollouts.engine": "openai", "rollouts.server.max_seq_len": 99},
            "rollouts.server.max_seq_len: a prompt and",
        ),
        (
            {"rollouts.engine": "openai", "rollouts.server.model": "m"},
            "rollouts.server.model: servers that are started",
        ),
        ({"model.data.format": "tokens"}, "model.data.format: not in an online run"),
        ({"exp_manager.resume_if_exists": False}, "exp_manager.resume_if_exists: not in an online run"),
        ({"onmcpo.segments": 0}, "onmcpo.segments: not a valid value"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ConfigError) as caught:
        online(changes)
    assert str(caught.value).startswith(message)
    assert ". Cure: " in str(caught.value)


def test_an_unknown_key_of_a_section_of_its_own():
    with pytest.raises(ConfigError, match=r"rollouts\.temperature: unknown key.*did you mean rollouts\.temperatures"):
        compose_online("rollouts.temperature=1")


def test_servers_are_chosen_by_name():
    config = compose_online("server@judge.server=transformers", "judge.server.replicas=2")
    assert (config.judge.server.launcher, config.rollouts.server.launcher) == ("transformers", "trtllm")
    assert (config.judge.server.replicas, config.rollouts.server.replicas) == (2, 1)
    assert config.rollouts.server.max_seq_len == config.model.data.max_length


def test_as_many_requests_as_a_server_takes_at_once():
    config = compose_online("server@rollouts.server=vllm", "rollouts.server.max_batch_size=64")
    assert (config.rollouts.server.concurrency, config.judge.server.concurrency) == (64, 256)
    assert compose_online("server@judge.server=transformers").judge.server.concurrency == 4


def test_names_are_those_of_the_tables():
    assert set(get_args(schema.Server.model_fields["launcher"].annotation)) == set(LAUNCHERS)
    assert list(online_stages.WORK) == list(STAGES)


def test_the_number_of_samples():
    config = online()
    assert isinstance(config, OnlineRunConfig)
    assert config.num_samples == 6
