# SPDX-License-Identifier: Apache-2.0
"""Our own plain form, and the pairs of TRL and Tülu: a prompt, and answers to it.

    prompt, responses            {"prompt": text or turns, "responses": [{"text", "rank"? or "score"?}, …]}
    prompt, chosen, rejected     texts or turns; without the prompt, whole conversations that share it
    prompt, completion           one answer, which only ``sft`` can use
    messages                     the same, as one conversation

Without ranks and scores the first response is the best.
"""

from __future__ import annotations

from typing import Any

from nemo_mcpo.data.formats.conversation import (
    PROMPT_COLUMNS,
    Turns,
    answer_of,
    checked_prompt,
    is_dialogue,
    pair_answers,
    pair_prompt,
    parse_prompt,
    prompt_turns,
    row_prompt,
    without_answer,
)
from nemo_mcpo.data.formats.messages import parse_message
from nemo_mcpo.data.formats.reader import Format
from nemo_mcpo.data.formats.records import Answer, BadRecordError, require
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.data.thoughts import THOUGHT_KEYS

_PROMPTS = tuple(name for name in PROMPT_COLUMNS if name != "conversations")
_TURN_KEYS = {*THOUGHT_KEYS, "tool_calls", "function_call"}
"""Keys of an answer that say what the model said, as its text does."""


def _prompt(row: Row) -> Turns:
    if "chosen" in row and "responses" not in row:
        return pair_prompt(row)
    if _is_conversation(row):
        return checked_prompt(without_answer(prompt_turns(row["messages"])))
    return parse_prompt(row_prompt(row))


def _answers(row: Row) -> list[Answer]:
    if "responses" in row:
        return [_answer(answer) for answer in require(row, "responses", list)]
    if "chosen" in row:
        return pair_answers(row)
    if "completion" in row:
        if row.get("label") is not None:
            raise BadRecordError("an answer with a label (KTO) is not supported", f"label: {row['label']}")
        return [answer_of(_completion(row["completion"]))]
    return [answer_of(turn) for turn in prompt_turns(row["messages"])[-1:] if turn.role == "assistant"]


def _answer(answer: Any) -> Answer:
    if isinstance(answer, dict) and "role" in answer and "content" in answer and "text" not in answer:
        turn = parse_message(answer)
        return Answer(turn.content, answer.get("rank"), answer.get("score"), extra=turn.extra)
    own = {key: value for key, value in answer.items() if key in _TURN_KEYS} if isinstance(answer, dict) else {}
    text = answer.get("text") if any(own.values()) else require(answer, "text", str)
    turn = parse_message({"role": "assistant", "content": text, **own})
    # A mistyped key would otherwise silently turn the file's order into the ranking.
    unknown = answer.keys() - {"text", "rank", "score"} - _TURN_KEYS
    if unknown and "rank" not in answer and "score" not in answer:
        raise BadRecordError("not the format's structure", f"responses: {sorted(unknown)} but no rank or score")
    return Answer(turn.content, answer.get("rank"), answer.get("score"), extra=turn.extra)


def _completion(value: Any) -> Any:
    turns = prompt_turns(value)
    if len(turns) != 1:
        raise BadRecordError("a completion of several turns")
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
    _answers,
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
