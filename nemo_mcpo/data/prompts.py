# SPDX-License-Identifier: Apache-2.0
"""The text of prompts, for judges and chat servers; a prepared dataset has only their tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from nemo_mcpo.data.formats import FORMATS, Rules, choose_format, read_records
from nemo_mcpo.errors import DataError
from nemo_mcpo.records import Message, PreferenceRecord


def read_conversations(
    data: str, data_format: str, sources: Collection[str], ignored_keys: Sequence[str] = ()
) -> dict[str, tuple[Message, ...]]:
    """Return the conversations of some records of a file, by ``source`` (``file:line``).

    Only the line numbers of ``sources`` are compared, since the dataset may have been prepared from another path.

    Raises:
        DataError: the file holds token ids instead of text.
    """
    wanted = {_number(source): source for source in sources}
    name = choose_format(data, data_format, min_answers=0, ignored_keys=ignored_keys).name
    if not FORMATS[name].has_text:
        fix = "use data with text: judges and chat servers cannot read token ids"
        raise DataError("the prompts have no text", where=data, got=f"format {name}", fix=fix)
    rules = Rules(min_answers=0, ignored_keys=ignored_keys)
    return {
        wanted[_number(record.source)]: _with_inputs(record)
        for record in read_records(FORMATS[name], data, rules, on_drop=lambda record: None)
        if _number(record.source) in wanted
    }


def _with_inputs(record: PreferenceRecord) -> tuple[Message, ...]:
    """Return the turns, with tools and other template inputs in a system turn, where judges see them."""
    turns = record.turns
    if not record.inputs:
        return turns
    if turns[0].role == "system":
        return (replace(turns[0], extra=record.inputs), *turns[1:])
    return (Message("system", "", record.inputs), *turns)


def _number(source: str) -> str:
    return source.rpartition(":")[2]
