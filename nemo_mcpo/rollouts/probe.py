# SPDX-License-Identifier: Apache-2.0
"""What servers can do, found out before they are trusted with a night's work.

A server may serve another model than the one asked for, and some ignore the temperature without a word: then all
samples of a prompt are the greedy answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import openai

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.rollouts.client import AwayError, RefusedError, Reply, chat, complete, send
from nemo_mcpo.rollouts.samples import Prompt
from nemo_mcpo.rollouts.serving import Serving

Ask = Callable[..., Reply]
"""``ask(client, model, prompt, **sampling)``."""

HOT, DRAWS, TOKENS = 2.0, 4, 48
"""Temperature, draws and tokens of the question whether a server samples: equal texts by chance are as good as ruled
out, unless the policy is certain of every token."""


def ask_tokens(client: openai.OpenAI, model: str, prompt: Prompt, **sampling: object) -> Reply:
    """The prompt as the tokens that training sees."""
    return complete(client, model, prompt.tokens, **sampling)


def ask_chat(client: openai.OpenAI, model: str, prompt: Prompt, **sampling: Any) -> Reply:
    """The prompt as a conversation; the server applies the chat template that the policy's directory has."""
    return chat(client, model, [asdict(turn) for turn in prompt.conversation], **sampling)


WAYS: Mapping[str, Ask] = {"tokens": ask_tokens, "chat": ask_chat}
"""In the order of preference."""


def check_models(serving: Serving) -> None:
    """Raise RolloutError where a server lists models and ours is not among them; some list none."""
    names = {serving.model, Path(serving.model).name}
    for url, listed in serving.pool.each(_listed_models):
        if listed and not names & set(listed):
            raise RolloutError(
                "the server has another model",
                where=url,
                got=", ".join(listed[:5]),
                expected=serving.model,
                cure="serve this directory, or set server.model to the name under which it is served",
            )


def _listed_models(client: openai.OpenAI) -> list[str]:
    """Nothing where there is no such list: transformers' fails on a machine without a hub cache."""
    try:
        return [model.id for model in send(lambda client: client.models.list(), client)]
    except (RefusedError, AwayError):
        return []


def find_way(serving: Serving, prompt: Prompt) -> Ask:
    """The first way of asking that every server understands.

    Raises:
        RolloutError: none, with what the server says about the last one.
    """
    problem = ""
    for name, ask in WAYS.items():
        if name == "chat" and not prompt.conversation:
            continue
        try:
            serving.pool.each(partial(ask, model=serving.model, prompt=prompt, **_sampling(1.0, 1, 4)))
        except RefusedError as error:
            problem = str(error)
        else:
            return ask
    raise RolloutError(
        "the server understands neither tokens nor chats",
        where=", ".join(serving.pool.urls),
        got=problem,
        cure="look at the server's log; transformers serve needs version 5.23 or later",
    )


def check_sampling(serving: Serving, ask: Ask, prompt: Prompt) -> None:
    """Raise RolloutError where a server gives the greedy answer at every temperature and seed."""
    for url, (greedy, *hot) in serving.pool.each(partial(_texts, model=serving.model, ask=ask, prompt=prompt)):
        if len(set(hot)) == 1:
            what = "every temperature and seed gives the greedy answer" if hot[0] == greedy else "it ignores the seed"
            raise RolloutError(
                f"the server does not sample: {what}",
                where=url,
                got=repr(hot[0][:60]),
                cure='write "do_sample": true into the generation_config.json of the served directory',
            )


def _texts(client: openai.OpenAI, model: str, ask: Ask, prompt: Prompt) -> list[str]:
    """The greedy answer, and hot ones of different seeds."""
    settings = [_sampling(0.0, 1, TOKENS), *(_sampling(HOT, seed, TOKENS) for seed in range(1, DRAWS + 1))]
    return [ask(client, model, prompt, **sampling).text for sampling in settings]


def _sampling(temperature: float, seed: int, max_tokens: int) -> dict[str, object]:
    return {"temperature": temperature, "top_p": 1.0, "seed": seed, "max_tokens": max_tokens}
