# SPDX-License-Identifier: Apache-2.0
"""UltraFeedback: the original with four ``completions`` and their ``overall_score``, or binarized to chosen/rejected.

Cui et al., 2023; https://huggingface.co/datasets/openbmb/UltraFeedback and HuggingFaceH4/ultrafeedback_binarized.
"""

from __future__ import annotations

from nemo_mcpo.data.formats.conversation import pair_prompt, pair_responses, parse_prompt
from nemo_mcpo.data.formats.reader import Format
from nemo_mcpo.data.formats.records import BadRecordError, RawResponse, require
from nemo_mcpo.data.formats.rows import Row
from nemo_mcpo.records import Message


def _prompt(row: Row) -> tuple[Message, ...]:
    return parse_prompt(require(row, "instruction", str)) if "instruction" in row else pair_prompt(row)


def _responses(row: Row) -> list[RawResponse]:
    if "completions" not in row:
        return pair_responses(row)
    return [_response(completion) for completion in require(row, "completions", list)]


def _response(completion: Row) -> RawResponse:
    text = require(completion, "response", str)
    if completion.get("overall_score") is None:
        raise BadRecordError("score missing for some responses")
    return RawResponse(text, score=completion["overall_score"])


FORMAT = Format(
    _prompt,
    _responses,
    columns=(frozenset({"instruction", "completions"}), frozenset({"chosen", "rejected"})),
    prompt_columns=(frozenset({"instruction"}), frozenset({"chosen", "rejected"})),
    optional=frozenset({"prompt", "score_chosen", "score_rejected"}),
    looks_right=lambda row: "completions" not in row or isinstance(row["completions"], list),
)
