# SPDX-License-Identifier: Apache-2.0
"""The words of prompts, for judges and chat servers: a prepared dataset keeps only their tokens."""

from __future__ import annotations

from collections.abc import Collection

from nemo_mcpo.data.formats import FORMATS
from nemo_mcpo.records import Message


def read_conversations(data: str, data_format: str, sources: Collection[str]) -> dict[str, tuple[Message, ...]]:
    """The conversations of some records of a file, by ``source`` (``file:line``).

    The file may have been read under another path when it was prepared: the number of the line names a record.

    The format ``tokens`` has no words.
    """
    wanted = {_number(source): source for source in sources}
    records = FORMATS[data_format](
        data, drop_ranks=(), max_candidates=None, min_answers=0, on_drop=lambda record: None
    )
    return {
        wanted[_number(record.source)]: tuple(turn for turn in record.prompt if isinstance(turn, Message))
        for record in records
        if _number(record.source) in wanted
    }


def _number(source: str) -> str:
    return source.rpartition(":")[2]
