# SPDX-License-Identifier: Apache-2.0
"""UltraFeedback: the original four completions with ``overall_score``, and the binarized chosen/rejected form.

Cui et al., 2023; https://huggingface.co/datasets/openbmb/UltraFeedback and HuggingFaceH4/ultrafeedback_binarized.
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
    columns = [frozenset({"instruction", "completions"}), frozenset({"chosen", "rejected"})]
    return read_records(data, _parse, columns, drop_ranks=drop_ranks, max_candidates=max_candidates, on_drop=on_drop)


def _parse(row: Row) -> tuple[tuple[Message, ...], list[Answer]]:
    if "completions" not in row:
        return parse_pair(row)
    prompt = parse_prompt(require(row, "instruction", str))
    return prompt, [_answer(completion) for completion in require(row, "completions", list)]


def _answer(completion: Row) -> Answer:
    text = require(completion, "response", str)
    if completion.get("overall_score") is None:
        raise BadRecordError("score missing for some answers")
    return Answer(text, score=completion["overall_score"])
