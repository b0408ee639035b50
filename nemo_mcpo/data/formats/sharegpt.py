# SPDX-License-Identifier: Apache-2.0
"""ShareGPT: ``conversations`` of ``{"from", "value"}`` turns, and ``chosen`` and ``rejected`` turns beside them.

Without a pair, the last turn of a conversation is its only response.
"""

from __future__ import annotations

from nemo_mcpo.data.formats.conversation import (
    Turns,
    checked_prompt,
    last_response,
    pair_prompt,
    pair_responses,
    prompt_turns,
    without_response,
)
from nemo_mcpo.data.formats.reader import Format
from nemo_mcpo.data.formats.records import RawResponse, require
from nemo_mcpo.data.formats.rows import Row


def _is_pair(row: Row) -> bool:
    return "chosen" in row and "rejected" in row


def _prompt(row: Row) -> Turns:
    return pair_prompt(row) if _is_pair(row) else checked_prompt(without_response(_turns(row)))


def _responses(row: Row) -> list[RawResponse]:
    return pair_responses(row) if _is_pair(row) else last_response(_turns(row))


def _turns(row: Row) -> Turns:
    return prompt_turns(require(row, "conversations", list))


FORMAT = Format(
    _prompt,
    _responses,
    columns=(frozenset({"conversations", "chosen", "rejected"}), frozenset({"conversations"})),
    prompt_columns=(frozenset({"conversations"}),),
    looks_right=lambda row: isinstance(row["conversations"], list),
)
