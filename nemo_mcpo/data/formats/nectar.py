# SPDX-License-Identifier: Apache-2.0
r"""Nectar: a prompt in ``\n\nHuman: … \n\nAssistant: …`` turns, and seven responses ranked by GPT-4.

Zhu et al., Starling-7B; https://huggingface.co/datasets/berkeley-nest/Nectar.

>>> parse_dialogue("\n\nHuman: Hi \n\nAssistant: Hello\n\nHuman: 1+1?\n\nAssistant:")[-1]
Message(role='user', content='1+1?', extra='')
"""

from __future__ import annotations

from nemo_mcpo.data.formats.conversation import checked_prompt, dialogue_turns, is_dialogue
from nemo_mcpo.data.formats.reader import Format
from nemo_mcpo.data.formats.records import RawResponse, require
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Message


def parse_dialogue(text: str) -> tuple[Message, ...]:
    """Return the turns of a dialogue, without the empty assistant turn at its end."""
    turns = dialogue_turns(text)
    return checked_prompt(turns[:-1] if turns[-1].role == "assistant" and not turns[-1].content else turns)


def _prompt(row: Row) -> tuple[Message, ...]:
    return parse_dialogue(require(row, "prompt", str))


def _responses(row: Row) -> list[RawResponse]:
    return [_response(value) for value in require(row, "answers", list)]


def _response(value: Row) -> RawResponse:
    text = require(value, "answer", str)
    return RawResponse(text, require(value, "rank", (int, float)), value.get("score"))


FORMAT = Format(
    _prompt,
    _responses,
    columns=(frozenset({"prompt", "answers"}),),
    prompt_columns=(frozenset({"prompt"}),),
    looks_right=lambda row: is_dialogue(row["prompt"]),
    drop_ranks=(2,),  # arXiv 2502.04567, section 5.1
)
