# SPDX-License-Identifier: Apache-2.0
"""Our own plain format, and the pairs of TRL and Tülu: a prompt with its responses.

    prompt, responses            {"prompt": text or turns, "responses": [{"text", "rank"? or "score"?}, …]}
    prompt, chosen, rejected     texts or turns; without a prompt column, whole conversations with the same prompt
    prompt, completion           one response, for the objective ``sft`` only
    messages                     the same, as one conversation

Without ranks and scores, the first response is the best.
"""

from __future__ import annotations

from typing import Any

from nemo_mcpo.data.formats.conversation import (
    PROMPT_COLUMNS,
    Turns,
    checked_prompt,
    is_dialogue,
    last_response,
    pair_prompt,
    pair_responses,
    parse_prompt,
    prompt_turns,
    response_of,
    row_prompt,
    without_response,
)
from nemo_mcpo.data.formats.messages import parse_message
from nemo_mcpo.data.formats.reader import Format
from nemo_mcpo.data.formats.records import BadRecordError, RawResponse, require
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.data.thoughts import THOUGHT_KEYS

_PROMPTS = tuple(name for name in PROMPT_COLUMNS if name != "conversations")
_TURN_KEYS = {*THOUGHT_KEYS, "tool_calls", "function_call"}
"""Keys of a response that are part of the model's output, like its text."""


def _prompt(row: Row) -> Turns:
    if "chosen" in row and "responses" not in row:
        return pair_prompt(row)
    if _is_conversation(row):
        return checked_prompt(without_response(prompt_turns(row["messages"])))
    return parse_prompt(row_prompt(row))


def _responses(row: Row) -> list[RawResponse]:
    if "responses" in row:
        return [_response(value) for value in require(row, "responses", list)]
    if "chosen" in row:
        return pair_responses(row)
    if "completion" in row:
        if row.get("label") is not None:
            raise BadRecordError("a response with a label (KTO) is not supported", f"label: {row['label']}")
        return [response_of(_completion(row["completion"]))]
    return last_response(prompt_turns(row["messages"]))


def _response(value: Any) -> RawResponse:
    if isinstance(value, dict) and "role" in value and "content" in value and "text" not in value:
        turn = parse_message(value)
        return RawResponse(turn.content, value.get("rank"), value.get("score"), extra=turn.extra)
    own = {key: part for key, part in value.items() if key in _TURN_KEYS} if isinstance(value, dict) else {}
    text = value.get("text") if any(own.values()) else require(value, "text", str)
    turn = parse_message({"role": "assistant", "content": text, **own})
    # Otherwise, with "rank" or "score" misspelled, the file's order would silently become the ranking.
    unknown = value.keys() - {"text", "rank", "score"} - _TURN_KEYS
    if unknown and "rank" not in value and "score" not in value:
        detail = f"responses: {sorted(unknown)} but no rank or score"
        raise BadRecordError("does not match the format's structure", detail)
    return RawResponse(turn.content, value.get("rank"), value.get("score"), extra=turn.extra)


def _completion(value: Any) -> Any:
    turns = prompt_turns(value)
    if len(turns) != 1:
        raise BadRecordError("completion has several turns")
    return turns[0]


def _is_conversation(row: Row) -> bool:
    return isinstance(row.get("messages"), list) and row_prompt(row) is row["messages"]


def _looks_right(row: Row) -> bool:
    if "conversations" in row:
        return False
    if "chosen" in row and "rejected" in row and "responses" not in row:
        return row_prompt(row) is not None or not is_dialogue(row["chosen"])
    return row_prompt(row) is not None


_PAIR = frozenset({"chosen", "rejected"})

FORMAT = Format(
    _prompt,
    _responses,
    columns=(
        *(frozenset({name, "responses"}) for name in _PROMPTS),
        _PAIR,
        frozenset({"prompt", "completion"}),
        frozenset({"messages"}),
    ),
    prompt_columns=(*(frozenset({name}) for name in _PROMPTS), _PAIR),
    optional=frozenset({"score_chosen", "score_rejected"}),
    looks_right=_looks_right,
)
