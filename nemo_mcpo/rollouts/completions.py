# SPDX-License-Identifier: Apache-2.0
"""Completion and chat requests, and how to read the replies of each kind of server, including token ids.

    server                       field that requests ids      where the ids are
    vLLM 0.10.2 and later        return_token_ids: true       choices[0].token_ids, including the end-of-turn token
    SGLang of mid-2026           return_token_ids: true       the same
    TensorRT-LLM 1.0 and later   detokenize: false            the same, with or without that token, and no text
    transformers serve 5.23      none                         text only

vLLM and SGLang also return the prompt's ids, in the choice or beside the choices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import openai

from nemo_mcpo.rollouts.client import RefusedError, Reply

_SPLIT_OFF = ("reasoning_content", "reasoning", "tool_calls")
"""Fields of a chat message into which servers move parts of what was generated."""


def complete(client: openai.OpenAI, model: str, tokens: Sequence[int], **sampling: object) -> Reply:
    """Request one completion of token ids."""
    answer = _post(client, "/completions", {"model": model, "prompt": list(tokens), **sampling})
    choice = _choice(answer)
    return _reply(answer, choice, _field(choice, "text"))


def converse(
    client: openai.OpenAI, model: str, messages: Sequence[Mapping[str, str]], *, whole: bool = True, **sampling: object
) -> Reply:
    """Request one answer to a conversation, to which the server applies its own template.

    ``whole``: refuse an answer if the server moved parts of it, such as the model's reasoning, to other fields.
    """
    answer = _post(client, "/chat/completions", {"model": model, "messages": list(messages), **sampling})
    if isinstance(answer, str):
        return _of_events(answer)
    choice = _choice(answer)
    message = _field(choice, "message")
    split = [name for name in _SPLIT_OFF if _field(message, name)]
    content = _field(message, "content")
    reply = _reply(answer, choice, "" if content is None and split and not whole else content)
    if whole and split and reply.tokens is None:
        raise RefusedError(f"the server moved parts of the answer into {split[0]}: start it without parsers")
    return reply


def _post(client: openai.OpenAI, path: str, body: Mapping[str, object]) -> object:
    """Post a request and return the JSON of the reply, or the text of an event stream.

    This bypasses the pydantic models of the openai package, which validate token ids one by one and take four times as
    long.
    """
    reply = client.post(path, cast_to=httpx.Response, body=body)
    if reply.headers.get("Content-Type", "").startswith("text/event-stream"):
        return reply.text
    return json.loads(reply.content)


def _choice(answer: object) -> object:
    choices = _field(answer, "choices")
    if not isinstance(choices, list) or not choices:
        raise RefusedError(f"no choices in the reply: {str(answer)[:100]}")
    return choices[0]


def _reply(answer: object, choice: object, text: object) -> Reply:
    """Read the reply of one choice; implausible ids are refused and implausible counts ignored."""
    finish, ids = _field(choice, "finish_reason"), _ids(_field(choice, "token_ids"))
    if text is None and ids is not None:
        text = ""
    if not isinstance(text, str) or finish not in ("stop", "length"):
        raise RefusedError(f"the reply makes no sense: finish_reason {finish!r}, text {str(text)[:60]!r}")
    usage = _field(answer, "usage")
    prompt = _field(choice, "prompt_token_ids") or _field(answer, "prompt_token_ids")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], list):  # one of several prompts
        prompt = prompt[0]
    ended_by = _field(choice, "stop_reason")
    return Reply(
        text,
        finish == "stop",
        tokens=ids,
        ended_by=_field(choice, "matched_stop") if ended_by is None else ended_by,
        num_tokens=_count(_field(usage, "completion_tokens")),
        prompt_tokens=_ids(prompt or None),
        num_prompt_tokens=_count(_field(usage, "prompt_tokens")),
    )


def _of_events(text: str) -> Reply:
    """Read an event stream, which transformers 4.57 sends even if none was requested."""
    events = [line.removeprefix("data:").strip() for line in text.split("\n") if line.startswith("data:")]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    if failed := next((problem for chunk in chunks if (problem := _field(chunk, "error"))), None):
        raise RefusedError(f"the server failed: {str(failed)[:100]}")
    choices = [choice for chunk in chunks for choice in _field(chunk, "choices") or ()]
    parts = [_field(_field(choice, "delta"), "content") or "" for choice in choices]
    finish = [reason for choice in choices if (reason := _field(choice, "finish_reason"))]
    usage = [found for chunk in chunks if (found := _field(chunk, "usage"))]
    whole = {"finish_reason": finish[-1] if finish else None}
    return _reply({"usage": usage[-1] if usage else None}, whole, "".join(map(str, parts)))


def _field(whole: object, name: str) -> Any:
    """A field of a JSON object; None if it is missing or ``whole`` is not an object."""
    return whole.get(name) if isinstance(whole, dict) else None


def _ids(found: object) -> tuple[int, ...] | None:
    if found is None:
        return None
    if not isinstance(found, list) or not all(type(one) is int and one >= 0 for one in found):
        raise RefusedError(f"not a list of token ids: {str(found)[:60]}")
    return tuple(found)


def _count(found: object) -> int | None:
    """A positive count, or None: servers that do not count return nothing or 0."""
    return found if isinstance(found, int) and found > 0 else None
