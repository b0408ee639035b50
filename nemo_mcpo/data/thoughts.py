# SPDX-License-Identifier: Apache-2.0
"""Thoughts, which precede the text of a response: how datasets store them and how chat templates write them.

The end of a prompt that opens a thought, and the two kinds of responses that follow:

    <|assistant|><think>\\n           the generation prompt opens the thought (Qwen3-Thinking-2507, R1 distills)
    two and two\\n</think>\\n\\n4      a response with a thought continues it and must not open it again
    \\n</think>\\n\\n4                 a response without a thought first closes the empty one
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking", "thought")
"""Keys of a turn that may hold a thought, in datasets and in templates."""


class Tags(NamedTuple):
    """The tags around a thought; ``gap`` is the text inside an empty thought and after it."""

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
    """Return the tags that a chat template writes or looks for, or None."""
    return next((tags for tags in TAGS if tags.begin in template or tags.end in template), None)


def is_open(tags: Tags | None, prompt: str) -> bool:
    """Return whether a rendered prompt ends inside a thought."""
    return tags is not None and prompt.rstrip().endswith(tags.begin)


def has_thought(tags: Tags | None, text: str, extra: Mapping[str, Any]) -> bool:
    """Return whether a response has a thought, in its text or in a key of its turn."""
    if any(extra.get(key) for key in THOUGHT_KEYS):
        return True
    return tags is not None and (tags.end in text or text.lstrip().startswith(tags.begin))


def is_whole(tags: Tags, prompt: str, text: str) -> bool:
    """Return whether prompt and continuation hold no thought, or one that is opened once and closed before the text.

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
    """Return a text preceded by its thought, as models write it."""
    return f"{tags.begin}\n{thought.strip()}\n{tags.end}\n\n{text}"


def continued(tags: Tags, prompt: str, text: str, empty: str | None) -> str:
    """Return the continuation of a prompt that ends inside a thought, for a response with or without a thought.

    >>> continued(TAGS[0], "<|assistant|><think>\\n", "<think>\\ntwo and two\\n</think>\\n\\n4", None)
    'two and two\\n</think>\\n\\n4'
    >>> continued(TAGS[0], "<|assistant|><think>\\n", "4", None)
    '\\n</think>\\n\\n4'

    Args:
        empty: text that the template itself puts between the prompt and a response without a thought, if known.
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
    """Return an empty thought."""
    return f"{tags.begin}{tags.gap}{tags.end}{tags.gap}"


def renamed(template: str, turn: Mapping[str, Any]) -> dict[str, Any]:
    """Return a turn with its thought under the key that this template reads."""
    key = next((key for key in THOUGHT_KEYS if turn.get(key)), None)
    if key is None or _reads(template, key):
        return dict(turn)
    known = next((name for name in THOUGHT_KEYS if _reads(template, name)), key)
    return {known if name == key else name: value for name, value in turn.items()}


def reads_thoughts(template: str) -> bool:
    """Return whether a template reads thoughts from a key of their own."""
    return any(_reads(template, name) for name in THOUGHT_KEYS)


def _reads(template: str, key: str) -> bool:
    return any(mark in template for mark in (f".{key}", f"['{key}']", f'["{key}"]', f"get('{key}'", f"'{key}' in"))
