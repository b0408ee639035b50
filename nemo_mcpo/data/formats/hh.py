# SPDX-License-Identifier: Apache-2.0
r"""Anthropic's HH: ``chosen`` and ``rejected`` are whole dialogues in ``\n\nHuman: … \n\nAssistant: …`` turns.

Bai et al., 2022; https://huggingface.co/datasets/Anthropic/hh-rlhf. The turns before the last are the prompt.
"""

from __future__ import annotations

from nemo_mcpo.data.formats.conversation import checked_prompt, dialogue_turns, is_dialogue, response_of, shared_turns
from nemo_mcpo.data.formats.reader import Format
from nemo_mcpo.data.formats.records import BadRecordError, RawResponse, require
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Message


def _dialogues(row: Row) -> list[tuple[Message, ...]]:
    dialogues = [dialogue_turns(require(row, name, str)) for name in ("chosen", "rejected")]
    for turns in dialogues:
        if turns[-1].role != "assistant":
            raise BadRecordError("chosen or rejected does not end with an assistant turn")
    return dialogues


def _prompt(row: Row) -> tuple[Message, ...]:
    return checked_prompt(shared_turns(_dialogues(row)))


def _responses(row: Row) -> list[RawResponse]:
    return [response_of(turns[-1], listed=True) for turns in _dialogues(row)]


FORMAT = Format(
    _prompt,
    _responses,
    columns=(frozenset({"chosen", "rejected"}),),
    prompt_columns=(frozenset({"chosen", "rejected"}),),
    looks_right=lambda row: "prompt" not in row and is_dialogue(row["chosen"]) and is_dialogue(row["rejected"]),
)
