# SPDX-License-Identifier: Apache-2.0
"""Reads a file with a format and collects what was dropped."""

from __future__ import annotations

from nemo_mcpo.data.formats import FORMATS, Dropped
from nemo_mcpo.records import PreferenceRecord


def read(
    data_format: str,
    data: str,
    *,
    drop_ranks: tuple[int, ...] = (),
    max_candidates: int | None = None,
    min_answers: int = 2,
) -> tuple[list[PreferenceRecord], list[Dropped]]:
    dropped: list[Dropped] = []
    rules = {"drop_ranks": drop_ranks, "max_candidates": max_candidates, "min_answers": min_answers}
    records = FORMATS[data_format](data, **rules, on_drop=dropped.append)
    return list(records), dropped


def texts(record: PreferenceRecord) -> list[str | None]:
    return [response.text for response in record.responses]
