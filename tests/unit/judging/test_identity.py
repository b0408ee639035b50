# SPDX-License-Identifier: Apache-2.0
"""A judge is identified by its weights and everything that affects its replies, not by its name."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack

import pytest
import torch
from safetensors.torch import save_file

from nemo_mcpo.judging.identity import ListedModel, hash_directory, identity_of, listed_model
from nemo_mcpo.rollouts.client import ServerPool
from nemo_mcpo.rollouts.serving import Serving
from tests.support.configs import online
from tests.support.fake_server import Behavior, fake_server, words_of

UNLISTED = ListedModel((), None)


@pytest.fixture
def directory(tmp_path):
    model = tmp_path / "judge"
    model.mkdir()
    save_file({"a": torch.arange(6.0).reshape(2, 3)}, model / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (model / name).write_text(json.dumps({"file": name}))
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "README.md").write_text("A judge.")
    return model


def settings(model, **changes):
    return online({"judge.server.model": str(model)} | changes).judge


def weights(file) -> None:
    save_file({"a": torch.ones(2, 3)}, file)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: weights(model / "model.safetensors"),
        lambda model: (model / "chat_template.jinja").write_text("{{ messages[0] }}"),
        lambda model: (model / "chat_template.jinja").unlink(),
        lambda model: (model / "generation_config.json").write_text('{"repetition_penalty": 1.1}'),
        lambda model: (model / "tokenizer.json").write_text("{}"),
        lambda model: (model / "config.json").write_text('{"rope_theta": 5}'),
        lambda model: (model / "hf_quant_config.json").write_text("{}"),
    ],
)
def test_changes_that_make_another_judge(directory, change):
    before = hash_directory(directory)
    change(directory)
    assert hash_directory(directory) != before


def test_changes_that_do_not(directory, tmp_path):
    before = hash_directory(directory)
    (directory / "README.md").write_text("The judge.")
    (directory / "trainer_state.json").write_text("{}")
    assert hash_directory(directory) == before
    shutil.move(directory, tmp_path / "elsewhere")
    assert hash_directory(tmp_path / "elsewhere") == before


def test_a_directory_is_known_and_a_name_is_not(directory):
    found = identity_of(settings(directory, **{"judge.server.urls": ["http://a/v1"]}), UNLISTED)
    assert found.is_known and found.facts == (hash_directory(directory),)
    named = identity_of(settings("judge-70b", **{"judge.server.urls": ["http://a/v1"]}), ListedModel(("/m",), None))
    assert not named.is_known and named.facts == ("judge-70b", "/m")


def test_the_configured_identity_stands_for_the_weights(tmp_path):
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "model.bin").touch()  # never read
    found = identity_of(settings(tmp_path / "pickles", **{"judge.identity": "rev-1"}), UNLISTED)
    assert found.is_known and "rev-1" in found.facts


def test_server_arguments_are_part_of_a_judge(directory):
    adapter = {"judge.server.arguments": ["--lora_dir", "x"]}
    facts = {
        identity_of(settings(directory, **changes), UNLISTED).facts
        for changes in ({}, adapter, {"judge.server.kv_cache_dtype": "fp8"}, {"judge.server.replicas": 3})
    }
    assert len(facts) == 3  # the number of replicas changes no verdict


def listed(behaviors) -> ListedModel:
    with ExitStack() as stack:
        urls = [stack.enter_context(fake_server(behavior)) for behavior in behaviors]
        return listed_model(Serving(ServerPool(urls, online().judge.server), "j", ()))


def test_what_servers_list():
    facts = {"root": "/models/j", "parent": None, "max_model_len": 4096}
    several = [Behavior(words_of, models=["j", "other"], facts=facts)]
    several.append(Behavior(words_of, models=["j"], facts=facts | {"root": "/j", "max_model_len": 2048}))
    assert listed(several) == ListedModel(("/j", "/models/j"), 2048)
    assert listed(several) == listed(several)  # although a model is created at every request
    assert listed([Behavior(words_of, models=["other"], facts=facts)]) == UNLISTED
    assert listed([Behavior(words_of)]) == UNLISTED
