# SPDX-License-Identifier: Apache-2.0
"""Our own plain form: ``{"prompt": text or messages, "responses": [{"text", "rank"? or "score"?}, …]}``.

Without ranks and scores the first response is the best. ``{"prompt", "chosen", "rejected"}`` is accepted too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from nemo_mcpo.data.formats.conversation import parse_pair, parse_prompt
from nemo_mcpo.data.formats.records import Answer, BadRecordError, Dropped, read_records, require
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Message, PreferenceRecord


def read(
    data: str, *, drop_ranks: Sequence[int], max_candidates: int | None, on_drop: Callable[[Dropped], None]
) -> Iterator[PreferenceRecord]:
    columns = [frozenset({"prompt", "responses"}), frozenset({"chosen", "rejected"})]
    return read_records(data, _parse, columns, drop_ranks=drop_ranks, max_candidates=max_candidates, on_drop=on_drop)


def _parse(row: Row) -> tuple[tuple[Message, ...], list[Answer]]:
    if "responses" not in row:
        return parse_pair(row)
    return parse_prompt(row.get("prompt")), [_answer(answer) for answer in require(row, "responses", list)]


def _answer(answer: Row) -> Answer:
    text = require(answer, "text", str)
    # A mistyped key would otherwise silently turn the file's order into the ranking.
    unknown = answer.keys() - {"text", "rank", "score"}
    if unknown and "rank" not in answer and "score" not in answer:
        raise BadRecordError("not the format's structure", f"responses: {sorted(unknown)} but no rank or score")
    return Answer(text, answer.get("rank"), answer.get("score"))
