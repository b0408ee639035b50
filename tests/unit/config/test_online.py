# SPDX-License-Identifier: Apache-2.0
"""The rules for the keys of an online run, checked by the key in the error."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import PositiveFloat

from nemo_mcpo.algorithms import online_stages
from nemo_mcpo.algorithms.onmcpo import STAGES
from nemo_mcpo.config import OnlineRunConfig
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.judging.judges import JUDGES
from tests.support.configs import compose_online, online

SMALL_JUDGE = {"judge.kind": "openai", "judge.server.model": "j", "judge.server.max_seq_len": 99}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"rollouts.max_tokens": 129}, "rollouts.max_tokens"),
        ({"rollouts.temperatures": [0.6, 0.6]}, "rollouts.temperatures"),
        ({"rollouts.temperatures": [0.0]}, "rollouts.temperatures.0"),
        ({"rollouts.temperatures": [1.0]}, "rollouts.samples"),
        ({"rollouts.samples": 0}, "rollouts.samples"),
        ({"rollouts.engine": "vllm"}, "rollouts.engine"),
        ({"rollouts.server.launcher": "none"}, "rollouts.server.launcher"),
        ({"judge.server.launcher": "none"}, "judge.server.launcher"),
        ({"model.mcpo.sampler": "given"}, "model.mcpo.sampler"),
        ({"model.mcpo.objective": "sft", "model.mcpo.num_negatives": 0}, "model.mcpo.objective"),
        ({"judge.kind": "oracle"}, "judge.kind"),
        ({"judge.rule": None}, "judge.rule"),
        ({"judge.rule": "rules.score"}, "judge.rule"),
        ({"judge.kind": "reward_model"}, "judge.reward_model"),
        ({"judge.kind": "openai"}, "judge.server.model"),
        (SMALL_JUDGE, "judge.server.max_seq_len"),
        ({"rollouts.engine": "openai", "rollouts.server.max_seq_len": 99}, "rollouts.server.max_seq_len"),
        ({"rollouts.engine": "openai", "rollouts.server.model": "m"}, "rollouts.server.model"),
        ({"model.data.format": "tokens"}, "model.data.format"),
        ({"exp_manager.resume_if_exists": False}, "exp_manager.resume_if_exists"),
        ({"onmcpo.segments": 0}, "onmcpo.segments"),
    ],
)
def test_refusals(changes, where):
    with pytest.raises(ConfigError) as caught:
        online(changes)
    assert caught.value.where == where and caught.value.fix


def test_an_unknown_key_in_a_section_of_online_runs():
    with pytest.raises(ConfigError) as caught:
        compose_online("rollouts.temperature=1")
    assert (caught.value.where, caught.value.fix) == ("rollouts.temperature", "did you mean rollouts.temperatures?")


def test_servers_are_selected_by_name():
    config = compose_online("server@judge.server=transformers", "judge.server.replicas=2")
    assert (config.judge.server.launcher.name, config.rollouts.server.launcher.name) == ("transformers", "trtllm")
    assert (config.judge.server.replicas, config.rollouts.server.replicas) == (2, 1)
    assert config.rollouts.server.max_seq_len == config.model.data.max_length


def test_concurrency_follows_the_batch_size_of_a_server():
    config = compose_online("server@rollouts.server=vllm", "rollouts.server.max_batch_size=64")
    assert (config.rollouts.server.concurrency, config.judge.server.concurrency) == (64, 256)
    assert compose_online("server@judge.server=transformers").judge.server.concurrency == 4


def test_parameters_of_judges_engines_and_launchers(monkeypatch, tmp_path):
    def build(*given: object, margin: PositiveFloat = 0.5) -> float:
        return margin

    monkeypatch.setitem(JUDGES, "tied", replace(JUDGES["rule"], build=build))
    for chosen, margin in (("tied", 0.5), ({"name": "tied", "margin": 0.25}, 0.25)):
        assert online_stages.build_judge(online({"judge.kind": chosen}), tmp_path, tmp_path) == margin
    for key, value, where in (
        ("judge.kind", {"name": "tied", "margin": -1.0}, "judge.kind.margin"),
        ("judge.kind", {"name": "rule", "margin": 1.0}, "judge.kind.margin"),
        ("rollouts.engine", {"name": "hf", "beams": 2}, "rollouts.engine.beams"),
        ("rollouts.server.launcher", {"name": "vllm", "eager": True}, "rollouts.server.launcher.eager"),
    ):
        with pytest.raises(ConfigError) as caught:
            online({key: value})
        assert caught.value.where == where


def test_every_stage_has_a_function():
    assert list(online_stages.WORK) == list(STAGES)


def test_the_number_of_samples():
    config = online()
    assert isinstance(config, OnlineRunConfig)
    assert config.num_samples == 6
