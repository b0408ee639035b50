# SPDX-License-Identifier: Apache-2.0
"""UltraFeedback: the original four completions with ``overall_score``, and the binarized chosen/rejected form.

Cui et al., 2023; https://huggingface.co/datasets/openbmb/UltraFeedback and HuggingFaceH4/ultrafeedback_binarized.
"""

from __future__ import annotations

from nemo_mcpo.data.formats.conversation import pair_answers, pair_prompt, parse_prompt
from nemo_mcpo.data.formats.reader import Format
from nemo_mcpo.data.formats.records import Answer, BadRecordError, require
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Message


def _prompt(row: Row) -> tuple[Message, ...]:
    return parse_prompt(require(row, "instruction", str)) if "instruction" in row else pair_prompt(row)


def _answers(row: Row) -> list[Answer]:
    if "completions" not in row:
        return pair_answers(row)
    return [_answer(completion) for completion in require(row, "completions", list)]


def _answer(completion: Row) -> Answer:
    text = require(completion, "response", str)
    if completion.get("overall_score") is None:
        raise BadRecordError("score missing for some answers")
    return Answer(text, score=completion["overall_score"])


FORMAT = Format(
    _prompt,
    _answers,
    columns=(frozenset({"instruction", "completions"}), frozenset({"chosen", "rejected"})),
    prompt_columns=(frozenset({"instruction"}), frozenset({"chosen", "rejected"})),
    optional=frozenset({"prompt", "score_chosen", "score_rejected"}),
    looks_right=lambda row: "completions" not in row or isinstance(row["completions"], list),
)
