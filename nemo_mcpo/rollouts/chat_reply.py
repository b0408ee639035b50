# SPDX-License-Identifier: Apache-2.0
"""The body of a chat completion, read whole: bounded in bytes and time, whether it is JSON or an event stream.

A reply is asked for in one piece, since a chunk a token costs more to read than a server takes to write it.
transformers 4.57's server answers with an event stream all the same: its chunks are put together here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
from openai import APIResponse

BYTES_PER_TOKEN, BYTES_BESIDE = 2048, 1 << 20
"""More than a server writes for a token, as a chunk of its own with its envelope, and for all the rest."""


def read_chat(response: APIResponse, max_tokens: int, seconds: float | None) -> dict[str, Any]:
    """The completion: ``choices`` with one ``message`` and ``finish_reason``, ``usage`` where the server counts.

    Args:
        response: to a request for one choice; its body has not been read.
        max_tokens: that were asked for.
        seconds: from now until the end of the body; None for any time.

    Raises:
        ValueError: it is too long, or no chat completion.
        httpx.ReadTimeout: it takes too long.
    """
    whole = b"".join(_bounded(response, BYTES_PER_TOKEN * max_tokens + BYTES_BESIDE, seconds))
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        return _joined(whole)
    body = json.loads(whole)
    if not isinstance(body, dict):
        raise ValueError(f"not a completion: {str(body)[:100]}")
    return body


def _bounded(response: APIResponse, max_bytes: int, seconds: float | None) -> Iterator[bytes]:
    started, size = time.monotonic(), 0
    for part in response.iter_bytes():
        size += len(part)
        if size > max_bytes:
            raise ValueError(f"the reply is longer than {max_bytes} bytes")
        if seconds is not None and time.monotonic() - started > seconds:
            raise httpx.ReadTimeout(f"the reply takes longer than {seconds:.0f} s")
        yield part


def _joined(whole: bytes) -> dict[str, Any]:
    """The completion that the chunks of an event stream make."""
    parts: list[str] = []
    finish = usage = None
    for line in whole.decode().split("\n"):
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        chunk = json.loads(data)
        if chunk.get("error"):
            raise ValueError(f"the server failed: {chunk['error']}")
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            parts.append((choice.get("delta") or {}).get("content") or "")
            finish = choice.get("finish_reason") or finish
    return {"choices": [{"message": {"content": "".join(parts)}, "finish_reason": finish}], "usage": usage}
