# SPDX-License-Identifier: Apache-2.0
"""Running servers: reachable, with our key and our model; and what a run reports otherwise."""

from __future__ import annotations

import pytest

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.platform.ports import free_port
from nemo_mcpo.rollouts.running_servers import check_urls
from tests.support.configs import online
from tests.support.fake_server import Behavior, fake_server, words_of


def check(url: str, model: str | None = "judge", must_run: bool = True) -> list[str]:
    settings = online({"judge.server.urls": [url], "judge.server.model": model}).judge.server
    return check_urls(settings, "judge.server", must_run=must_run)


@pytest.mark.parametrize("listed", [["judge"], ["other", "/models/judge"], []])
def test_a_server_with_the_model(listed):
    with fake_server(Behavior(words_of, models=listed)) as url:
        assert check(url) == check(url, "/elsewhere/judge") == check(url, None) == []


def test_another_model():
    with fake_server(Behavior(words_of, models=["other"])) as url, pytest.raises(ConfigError) as caught:
        check(url)
    assert (caught.value.got, caught.value.expected) == ("other", "judge")
    assert caught.value.fix.startswith("set judge.server.model ")


def test_a_server_that_loads_models_by_name_may_list_another():
    changes = {"judge.server.launcher": "transformers", "judge.server.model": "/models/judge"}
    with fake_server(Behavior(words_of, models=["other"])) as url:
        settings = online({"judge.server.urls": [url], **changes}).judge.server
        (note,) = check_urls(settings, "judge.server", must_run=True)
    assert note == f"judge.server.urls: {url} has other; it must load /models/judge on request"


def test_an_unreachable_server():
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(ConfigError, match="does not answer") as caught:
        check(url)
    assert (caught.value.where, caught.value.got) == ("judge.server.urls", url)
    (note,) = check(url, must_run=False)
    assert note.startswith(f"judge.server.urls: {url} does not answer")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("localhost:8000", "not a URL"),
        ("ftp://host/v1", "not a URL"),
        ("http:///v1", "not a URL"),
        ("http://no-such-host.invalid:1/v1", "unknown host"),
    ],
)
def test_bad_urls(url, what):
    with pytest.raises(ConfigError, match=what) as caught:
        check(url, must_run=False)
    assert caught.value.where == "judge.server.urls" and caught.value.got.startswith(url)
