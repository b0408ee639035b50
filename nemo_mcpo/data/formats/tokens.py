# SPDX-License-Identifier: Apache-2.0
"""Token ids, used as they are: ``{"prompt_ids": [...], "responses": [{"ids": [...], "rank"? or "score"?}, …]}``.

Neither a chat template nor an end-of-turn token is added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nemo_mcpo.data.formats.reader import Format
from nemo_mcpo.data.formats.records import BadRecordError, RawResponse, require
from nemo_mcpo.data.formats.rows import Row


def _prompt(row: Row) -> tuple[int, ...]:
    prompt = _ids(require(row, "prompt_ids", list), "prompt_ids")
    if not prompt:
        raise BadRecordError("empty prompt")
    return prompt


def _responses(row: Row) -> list[RawResponse]:
    responses = require(row, "responses", list)
    return [RawResponse(_ids(require(r, "ids", list), "ids"), r.get("rank"), r.get("score")) for r in responses]


def _ids(values: list[Any], name: str) -> tuple[int, ...]:
    try:
        ids = np.asarray(values) if values else np.empty(0, dtype=int)
    except ValueError:  # lists of different lengths inside
        ids = np.empty((0, 0))
    if ids.ndim != 1 or ids.dtype.kind != "i":
        raise BadRecordError("does not match the format's structure", f"{name}: not a list of 64-bit integers")
    return tuple(values)


FORMAT = Format(
    _prompt,
    _responses,
    columns=(frozenset({"prompt_ids", "responses"}),),
    prompt_columns=(frozenset({"prompt_ids"}),),
    has_text=False,
)
