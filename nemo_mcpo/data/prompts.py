# SPDX-License-Identifier: Apache-2.0
"""The words of prompts, for judges and chat servers: a prepared dataset keeps only their tokens."""

from __future__ import annotations

from collections.abc import Collection

from nemo_mcpo.data.formats import FORMATS
from nemo_mcpo.errors import DataError
from nemo_mcpo.records import Message


def read_conversations(data: str, data_format: str, sources: Collection[str]) -> dict[str, tuple[Message, ...]]:
    """The conversations of some records of a file, by ``source`` (``file:line``).

    Raises:
        DataError: the format has token ids instead of words.
    """
    if data_format == "tokens":
        raise DataError(
            "prompts of token ids have no words",
            where=data,
            expected="a format with text",
            cure="set model.data.format and a file with text, or rollouts.engine=hf with judge.kind=reward_model",
        )
    wanted = set(sources)
    records = FORMATS[data_format](
        data, drop_ranks=(), max_candidates=None, min_answers=0, on_drop=lambda record: None
    )
    return {
        record.source: tuple(turn for turn in record.prompt if isinstance(turn, Message))
        for record in records
        if record.source in wanted
    }
