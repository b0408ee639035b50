# SPDX-License-Identifier: Apache-2.0
"""Token ids as they are: ``{"prompt_ids": [...], "responses": [{"ids": [...], "rank"? or "score"?}, …]}``.

Nothing is added: neither a template nor an end-of-turn token.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nemo_mcpo.data.formats.reader import Format
from nemo_mcpo.data.formats.records import Answer, BadRecordError, require
from nemo_mcpo.data.formats.rows import Row


def _prompt(row: Row) -> tuple[int, ...]:
    prompt = _ids(require(row, "prompt_ids", list), "prompt_ids")
    if not prompt:
        raise BadRecordError("empty prompt")
    return prompt


def _answers(row: Row) -> list[Answer]:
    responses = require(row, "responses", list)
    return [Answer(_ids(require(r, "ids", list), "ids"), r.get("rank"), r.get("score")) for r in responses]


def _ids(values: list[Any], name: str) -> tuple[int, ...]:
    try:
        ids = np.asarray(values) if values else np.empty(0, dtype=int)
    except ValueError:  # lists of different lengths inside
        ids = np.empty((0, 0))
    if ids.ndim != 1 or ids.dtype.kind != "i":
        raise BadRecordError("not the format's structure", f"{name}: not a list of 64-bit whole numbers")
    return tuple(values)


FORMAT = Format(
    _prompt,
    _answers,
    columns=(frozenset({"prompt_ids", "responses"}),),
    prompt_columns=(frozenset({"prompt_ids"}),),
    has_words=False,
)
