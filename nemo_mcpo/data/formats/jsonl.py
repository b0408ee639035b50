# SPDX-License-Identifier: Apache-2.0
"""Our own plain form: ``{"prompt": text or messages, "responses": [{"text", "rank"? or "score"?}, …]}``.

Without ranks and scores the first response is the best. ``{"prompt", "chosen", "rejected"}`` is accepted too.
"""

from __future__ import annotations

from nemo_mcpo.data.formats.conversation import pair_answers, pair_prompt, parse_prompt
from nemo_mcpo.data.formats.records import Answer, BadRecordError, Format, require
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Message


def _prompt(row: Row) -> tuple[Message, ...]:
    is_pair = "chosen" in row and "responses" not in row
    return pair_prompt(row) if is_pair else parse_prompt(row.get("prompt"))


def _answers(row: Row) -> list[Answer]:
    if "responses" not in row:
        return pair_answers(row)
    return [_answer(answer) for answer in require(row, "responses", list)]


def _answer(answer: Row) -> Answer:
    text = require(answer, "text", str)
    # A mistyped key would otherwise silently turn the file's order into the ranking.
    unknown = answer.keys() - {"text", "rank", "score"}
    if unknown and "rank" not in answer and "score" not in answer:
        raise BadRecordError("not the format's structure", f"responses: {sorted(unknown)} but no rank or score")
    return Answer(text, answer.get("rank"), answer.get("score"))


FORMAT = Format(
    _prompt,
    _answers,
    columns=(frozenset({"prompt", "responses"}), frozenset({"chosen", "rejected"})),
    prompt_columns=(frozenset({"prompt"}), frozenset({"chosen", "rejected"})),
)
