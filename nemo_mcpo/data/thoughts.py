# SPDX-License-Identifier: Apache-2.0
"""Thoughts before an answer: how data sets hold them, and how chat templates write them.

What a prompt ends with, and what an answer is then:

    <|assistant|><think>\\n           a generation prompt that opens the thought (Qwen3-Thinking-2507, R1 distills)
    two and two\\n</think>\\n\\n4      an answer with a thought continues it: it must not be opened again
    \\n</think>\\n\\n4                 an answer without one closes an empty thought first
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking", "thought")
"""Keys of a turn that hold a thought, under which templates look for it."""


class Tags(NamedTuple):
    """What a thought stands between; ``gap`` is what the empty thought has inside and behind it."""

    begin: str
    end: str
    gap: str


TAGS = (
    Tags("<think>", "</think>", "\n\n"),
    Tags("<thinking>", "</thinking>", "\n\n"),
    Tags("<thought>", "</thought>", "\n\n"),
    Tags("<reasoning>", "</reasoning>", "\n\n"),
    Tags("<seed:think>", "</seed:think>", ""),
    Tags("[THINK]", "[/THINK]", ""),
    Tags("<|START_THINKING|>", "<|END_THINKING|>", ""),
)


def tags_of(template: str) -> Tags | None:
    """The tags that a chat template writes, or looks for."""
    return next((tags for tags in TAGS if tags.begin in template or tags.end in template), None)


def is_open(tags: Tags | None, prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought."""
    return tags is not None and prompt.rstrip().endswith(tags.begin)


def has_thought(tags: Tags | None, text: str, extra: Mapping[str, Any]) -> bool:
    """Whether an answer comes with a thought, in its text or beside it."""
    if any(extra.get(key) for key in THOUGHT_KEYS):
        return True
    return tags is not None and (tags.end in text or text.lstrip().startswith(tags.begin))


def is_whole(tags: Tags, prompt: str, text: str) -> bool:
    """Whether a prompt and what follows it hold no thought, or one that is opened once and closed before the answer.

    >>> [is_whole(TAGS[0], "<|assistant|>", text) for text in ("4", "<think>two</think>4", "<think>two", "4<think>")]
    [True, True, False, False]
    """
    begins, ends = text.count(tags.begin), text.count(tags.end)
    if is_open(tags, prompt):
        return (begins, ends) == (0, 1)
    if (begins, ends) == (1, 1) and text.lstrip().startswith(tags.begin):
        return not prompt.rstrip().endswith(tags.end)
    return (begins, ends) == (0, 0)


def inlined(tags: Tags, text: str, thought: str) -> str:
    """An answer with its thought before it, as models write it."""
    return f"{tags.begin}\n{thought.strip()}\n{tags.end}\n\n{text}"


def continued(tags: Tags, prompt: str, text: str, empty: str | None) -> str:
    """What follows a prompt that ends inside a thought, for an answer with a thought of its own, or without one.

    >>> continued(TAGS[0], "<|assistant|><think>\\n", "<think>\\ntwo and two\\n</think>\\n\\n4", None)
    'two and two\\n</think>\\n\\n4'
    >>> continued(TAGS[0], "<|assistant|><think>\\n", "4", None)
    '\\n</think>\\n\\n4'

    Args:
        empty: what the template itself puts between the prompt and an answer without a thought, if that is known.
    """
    opened = prompt[prompt.rindex(tags.begin) + len(tags.begin) :]
    own = text.lstrip()
    if own.startswith(tags.begin):
        own = own.removeprefix(tags.begin)
        return own.removeprefix(opened) if own.startswith(opened) else own.lstrip()
    if tags.end in text:
        return text
    return (closed(tags).removeprefix(tags.begin + opened) if empty is None else empty) + text


def closed(tags: Tags) -> str:
    """An empty thought."""
    return f"{tags.begin}{tags.gap}{tags.end}{tags.gap}"


def renamed(template: str, turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn whose thought has the key under which this template looks for it."""
    key = next((key for key in THOUGHT_KEYS if turn.get(key)), None)
    if key is None or _reads(template, key):
        return dict(turn)
    known = next((name for name in THOUGHT_KEYS if _reads(template, name)), key)
    return {known if name == key else name: value for name, value in turn.items()}


def reads_thoughts(template: str) -> bool:
    """Whether a template looks for thoughts beside the content."""
    return any(_reads(template, name) for name in THOUGHT_KEYS)


def _reads(template: str, key: str) -> bool:
    return any(mark in template for mark in (f".{key}", f"['{key}']", f'["{key}"]', f"get('{key}'", f"'{key}' in"))
