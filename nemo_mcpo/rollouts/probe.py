# SPDX-License-Identifier: Apache-2.0
"""Probes what each server understands: the name of our model, token or chat prompts, and optional fields.

None of this is configured, since it differs between programs and their versions: some refuse unknown fields, others
ignore them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import openai
from openai.types import Model

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.rollouts.client import AwayError, RefusedError, Reply, Request, send
from nemo_mcpo.rollouts.completions import complete, converse
from nemo_mcpo.rollouts.launchers import launcher_of
from nemo_mcpo.rollouts.samples import Prompt
from nemo_mcpo.rollouts.serving import Serving

Ask = Callable[..., Reply]
"""``ask(client, model, prompt, **sampling)``."""

_NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
_OF_TRANSFORMERS = {
    **_NEUTRAL,
    **{"do_sample": True, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0},
    **{"no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0, "length_penalty": 1.0, "num_beams": 1},
}
TOKEN_IDS: tuple[Mapping[str, object], ...] = ({"return_token_ids": True}, {"detokenize": False})
"""Ways to request ids, in order of preference: vLLM's and SGLang's, TensorRT-LLM's."""
NEUTRAL: tuple[Mapping[str, object], ...] = (
    _NEUTRAL,  # vLLM, TensorRT-LLM
    {**_NEUTRAL, "top_k": -1},  # SGLang
    {"generation_config": json.dumps(_OF_TRANSFORMERS)},  # transformers serve
    {"top_k": 0},
    {"top_k": -1},
)
"""Ways to request that only temperature and top_p affect sampling, whatever ``generation_config.json`` and the
server's defaults say."""


def ask_tokens(client: openai.OpenAI, model: str, prompt: Prompt, **sampling: object) -> Reply:
    """Send the prompt as the tokens that training sees."""
    return complete(client, model, prompt.tokens, **sampling)


def ask_chat(client: openai.OpenAI, model: str, prompt: Prompt, **sampling: Any) -> Reply:
    """Send the prompt as a conversation; the server applies the chat template in the policy's directory."""
    return converse(client, model, [turn.as_dict() for turn in prompt.conversation], **sampling)


WAYS: Mapping[str, Ask] = {"tokens": ask_tokens, "chat": ask_chat}
"""Ways to send a prompt, in order of preference."""


def check_models(serving: Serving) -> None:
    """Use, for each server, the name under which it lists our model, if it lists any models.

    Raises:
        RolloutError: a server lists other models, and does not load ours on request.
    """
    loads = launcher_of(serving.pool.settings).loads_by_name
    for url, (listed, name) in serving.pool.each(partial(_own_name, model=serving.model, loads=loads)):
        if not listed:
            continue
        if name is None:
            raise RolloutError(
                "the server has a different model",
                where=url,
                got=", ".join(listed),
                expected=serving.model,
                fix="serve this directory, or set server.model to the name under which it is served",
            )
        serving.pool.learn(url, model=name)


def _own_name(client: openai.OpenAI, model: str, loads: bool) -> tuple[dict[str, str], str | None]:
    """The models that a server lists, and its name for ours, which it need not list if it ``loads`` models by name."""
    listed = {str(model.id): str(getattr(model, "root", None) or "") for model in listed_models(client)}
    name = listed_name(model, listed)
    if name is None and listed and loads and _answers(client, model):
        name = model
    return listed, name


def _answers(client: openai.OpenAI, model: str) -> bool:
    """Whether a server answers requests for a model, which it may have to load first."""
    messages = [{"role": "user", "content": "1"}]
    request = partial(converse, model=model, messages=messages, whole=False, **draw(0.0, 1, 1))
    return _reply_or_none(client, request) is not None


def _reply_or_none(client: openai.OpenAI, request: Request[Reply]) -> Reply | None:
    """The reply; None if the server refuses the request, or fails at it, as some do instead of refusing."""
    try:
        return send(request, client)
    except RefusedError:
        return None
    except AwayError as error:
        if error.failed:
            return None
        raise


def listed_name(model: str, listed: Mapping[str, str]) -> str | None:
    """The listed name that means ``model`` (a directory or a name); None if there is none, or it is ambiguous.

    Args:
        listed: names, each with the directory it is served from, or an empty string if that is unknown.

    >>> listed_name("/runs/7/policy-0", {"policy-0": ""}), listed_name("policy-0", {"/runs/7/policy-0": ""})
    ('policy-0', '/runs/7/policy-0')
    >>> listed_name("/runs/7/policy-0", {"/runs/8/policy-0": ""})
    """
    short = Path(model).name
    rules: tuple[Callable[[str], bool], ...] = (
        lambda name: name == model,
        lambda name: _is_path(model) and _same_path(listed[name], model),
        lambda name: _is_path(model) and (name == short or _same_path(name, model)),
        lambda name: not _is_path(model) and Path(name).name == model,
        lambda name: name.casefold() in (model.casefold(), short.casefold()),
    )
    for is_ours in rules:
        found = [name for name in listed if is_ours(name)]
        if found:
            return found[0] if len({listed[name] or name for name in found}) == 1 else None
    return None


def _is_path(name: str) -> bool:
    """Whether a name is a path; hub names contain a slash, too, but do not begin with one of these."""
    return name.startswith(("/", ".", "~"))


def _same_path(one: str, other: str) -> bool:
    return bool(one) and _is_path(one) and Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def listed_models(client: openai.OpenAI) -> list[Model]:
    """The listed models; empty if there is no list: transformers' fails on a machine without a hub cache."""
    try:
        return send(lambda client: list(client.models.list()), client)
    except (RefusedError, AwayError):
        return []


def find_way(serving: Serving, prompt: Prompt) -> Ask:
    """Find the first way to send a prompt that every server understands, and learn each server's optional fields.

    Raises:
        RolloutError: no way works; the error has the reply to the last one.
    """
    problem = ""
    for name, ask in WAYS.items():
        if name == "chat" and not prompt.conversation:
            continue
        request = partial(ask, model=serving.model, prompt=prompt)
        try:
            serving.pool.each(partial(request, **draw(1.0, 1, 4)))
        except RefusedError as error:
            problem = str(error)
            continue
        for url, fields in serving.pool.each(partial(_known_fields, request=request)):
            serving.pool.learn(url, **fields)
        return ask
    raise RolloutError(
        "the server understands neither token prompts nor chats",
        where=", ".join(serving.pool.urls),
        got=problem,
        fix="check the server's log; transformers serve must be version 5.23 or later",
    )


def _known_fields(client: openai.OpenAI, request: Ask) -> dict[str, object]:
    """The first fields of each kind that the server accepts; for token ids, only if it returns some."""
    ids = _first(client, request, TOKEN_IDS, {}, lambda reply: reply.tokens is not None)
    return {**ids, **_first(client, request, NEUTRAL, ids, lambda reply: True)}


def _first(
    client: openai.OpenAI,
    request: Ask,
    choices: Sequence[Mapping[str, object]],
    others: Mapping[str, object],
    is_right: Callable[[Reply], bool],
) -> Mapping[str, object]:
    """The first of ``choices`` that, together with ``others``, gets a reply that is right; empty if none does."""
    for fields in choices:
        reply = _reply_or_none(client, partial(request, **draw(1.0, 1, 4), **others, **fields))
        if reply is not None and is_right(reply):
            return fields
    return {}


def draw(temperature: float, seed: int, max_tokens: int) -> dict[str, Any]:
    """The sampling settings of one request."""
    return {"temperature": temperature, "top_p": 1.0, "seed": seed, "max_tokens": max_tokens}
