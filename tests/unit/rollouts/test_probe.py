# SPDX-License-Identifier: Apache-2.0
"""Names under which servers list a model, and the names in requests."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.rollouts.client import ServerPool
from nemo_mcpo.rollouts.completions import complete
from nemo_mcpo.rollouts.probe import check_models, listed_name
from nemo_mcpo.rollouts.serving import Serving
from tests.support.configs import server_settings
from tests.support.fake_server import Behavior, fake_server, words_of

OURS = "/runs/7/policy-0"


@pytest.mark.parametrize(
    ("model", "listed", "name"),
    [
        (OURS, {OURS: ""}, OURS),
        (OURS, {"other": "", "policy-0": ""}, "policy-0"),
        (OURS, {"policy-0": "", OURS: ""}, OURS),
        (OURS, {f"{OURS}/": ""}, f"{OURS}/"),
        (OURS, {"/runs/7/../7/policy-0": ""}, "/runs/7/../7/policy-0"),
        (OURS, {"served": OURS, "policy-0": "/elsewhere"}, "served"),  # vLLM says where a model comes from
        (OURS, {"served": OURS, "also": OURS}, "served"),  # two names of one model
        (OURS, {"Policy-0": ""}, "Policy-0"),
        (OURS, {"/runs/8/policy-0": ""}, None),
        (OURS, {"policy-1": "", "policy-00": "", "my/policy-0": ""}, None),
        (f"{OURS}/", {"policy-0": ""}, "policy-0"),
        ("policy-0", {OURS: ""}, OURS),
        ("policy-0", {OURS: "", "/runs/8/policy-0": ""}, None),
        ("meta-llama/Llama-3.1-8B", {"meta-llama/llama-3.1-8b": ""}, "meta-llama/llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B", {"other/Llama-3.1-8B": ""}, None),
    ],
)
def test_names(model, listed, name):
    assert listed_name(model, listed) == name


def asked_for(*listed: list[str]) -> list[list[str]]:
    """The names in the requests to servers that list these."""
    behaviors = [Behavior(words_of, models=names, takes_tokens=True) for names in listed]
    with ExitStack() as stack:
        urls = [stack.enter_context(fake_server(behavior)) for behavior in behaviors]
        serving = Serving(ServerPool(urls, server_settings()), OURS, ())
        check_models(serving)
        body = {"temperature": 1.0, "seed": 1, "max_tokens": 1}
        serving.pool.each(lambda client: complete(client, serving.model, [1, 2], **body))
    return [[body["model"] for body in behavior.requests] for behavior in behaviors]


def test_each_server_is_asked_by_its_own_name():
    assert asked_for(["policy-0"], [OURS], [], [f"main={OURS}"]) == [["policy-0"], [OURS], [OURS], ["main"]]


def serving_of(url: str, launcher: str) -> Serving:
    return Serving(ServerPool([url], server_settings(launcher=launcher)), OURS, ())


def test_a_server_that_loads_models_by_name_is_asked_for_ours():
    """Like transformers serve started without a model, which lists what it has loaded for others."""
    behavior = Behavior(words_of, models=["/runs/7/policy-1"])
    with fake_server(behavior) as url:
        check_models(serving_of(url, "transformers"))
        assert [body["model"] for body in behavior.requests] == [OURS]
        with pytest.raises(RolloutError, match="different model"):
            check_models(serving_of(url, "vllm"))


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_server_that_loads_no_other_model_has_another_one(status):
    """Like transformers serve started with a model ("Server is pinned to …"), or one that does not find ours."""
    behavior = Behavior(lambda body: (status, "{}"), models=["/runs/7/policy-1"])
    with fake_server(behavior) as url, pytest.raises(RolloutError, match=r"different model .got /runs/7/policy-1"):
        check_models(serving_of(url, "transformers"))


def test_all_names_of_a_server_with_another_model_are_shown():
    names = [f"model-{number}" for number in range(7)]
    with pytest.raises(RolloutError, match="different model.*" + ", ".join(names)) as raised:
        asked_for(["policy-0"], names)
    assert OURS in str(raised.value) and "server.model" in str(raised.value)
