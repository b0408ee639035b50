# SPDX-License-Identifier: Apache-2.0
r"""Nectar: a prompt of ``\n\nHuman: … \n\nAssistant: …`` turns and seven answers ranked by GPT-4.

Zhu et al., Starling-7B; https://huggingface.co/datasets/berkeley-nest/Nectar.

>>> parse_dialogue("\n\nHuman: Hi \n\nAssistant: Hello\n\nHuman: 1+1?\n\nAssistant:")[-1]
Message(role='user', content='1+1?')
"""

from __future__ import annotations

import re

from nemo_mcpo.data.formats.conversation import checked_prompt
from nemo_mcpo.data.formats.reader import Format
from nemo_mcpo.data.formats.records import Answer, BadRecordError, checked_text, require
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Message

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def parse_dialogue(text: str) -> tuple[Message, ...]:
    """The turns of a dialogue, without the empty assistant turn that asks for the answer."""
    turns = dialogue_turns(text)
    return checked_prompt(turns[:-1] if turns[-1].role == "assistant" and not turns[-1].content else turns)


def dialogue_turns(text: str) -> tuple[Message, ...]:
    """All turns of a dialogue, at least one."""
    opening, *parts = _TURN.split(checked_text(text))
    if not opening.strip() and not parts:
        raise BadRecordError("empty prompt")
    if opening.strip():
        raise BadRecordError("prompt is not in Human/Assistant turns", repr(opening[:40]))
    return tuple(Message(_ROLES[name], content.strip()) for name, content in zip(parts[::2], parts[1::2], strict=True))


def _prompt(row: Row) -> tuple[Message, ...]:
    return parse_dialogue(require(row, "prompt", str))


def _answers(row: Row) -> list[Answer]:
    return [_answer(answer) for answer in require(row, "answers", list)]


def _answer(answer: Row) -> Answer:
    text = require(answer, "answer", str)
    return Answer(text, require(answer, "rank", (int, float)), answer.get("score"))


FORMAT = Format(
    _prompt,
    _answers,
    columns=(frozenset({"prompt", "answers"}),),
    prompt_columns=(frozenset({"prompt"}),),
    looks_right=lambda row: isinstance(row["prompt"], str) and _TURN.match(row["prompt"]) is not None,
)
