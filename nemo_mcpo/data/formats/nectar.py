# SPDX-License-Identifier: Apache-2.0
r"""Nectar: a prompt of ``\n\nHuman: … \n\nAssistant: …`` turns and seven answers ranked by GPT-4.

Zhu et al., Starling-7B; https://huggingface.co/datasets/berkeley-nest/Nectar.

>>> parse_dialogue("\n\nHuman: Hi \n\nAssistant: Hello\n\nHuman: 1+1?\n\nAssistant:")[-1]
Message(role='user', content='1+1?')
"""

from __future__ import annotations

from nemo_mcpo.data.formats.conversation import checked_prompt, dialogue_turns, is_dialogue
from nemo_mcpo.data.formats.reader import Format
from nemo_mcpo.data.formats.records import Answer, require
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Message


def parse_dialogue(text: str) -> tuple[Message, ...]:
    """The turns of a dialogue, without the empty assistant turn that asks for the answer."""
    turns = dialogue_turns(text)
    return checked_prompt(turns[:-1] if turns[-1].role == "assistant" and not turns[-1].content else turns)


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
    looks_right=lambda row: is_dialogue(row["prompt"]),
    drop_ranks=(2,),  # arXiv 2502.04567, section 5.1
)
