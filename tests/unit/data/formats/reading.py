# SPDX-License-Identifier: Apache-2.0
"""Read a file in a format, and collect the dropped records."""

from __future__ import annotations

from nemo_mcpo.data.formats import FORMATS, Dropped, Rules, choose_format, read_records
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
    rules = Rules(drop_ranks, max_candidates, min_answers)
    name = choose_format(data, data_format, min_answers=min_answers).name
    records = read_records(FORMATS[name], data, rules, on_drop=dropped.append)
    return list(records), dropped


def texts(record: PreferenceRecord) -> list[str | None]:
    return [response.text for response in record.responses]
