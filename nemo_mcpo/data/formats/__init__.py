# SPDX-License-Identifier: Apache-2.0
"""One reader per public format, and how a file's format is found; each streams PreferenceRecord, best response first.

>>> FORMATS["nectar"].expected, FORMATS["nectar"].drop_ranks
('answers, prompt', (2,))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from nemo_mcpo.data.formats import hh, jsonl, nectar, sharegpt, tokens, ultrafeedback
from nemo_mcpo.data.formats.context import CONTEXT_COLUMNS
from nemo_mcpo.data.formats.conversation import PROMPT_COLUMNS, row_prompt
from nemo_mcpo.data.formats.reader import Format, Rules, read_records, without_keys
from nemo_mcpo.data.formats.records import Dropped
from nemo_mcpo.data.formats.rows import read_rows
from nemo_mcpo.errors import DataError
from nemo_mcpo.variant import entry

__all__ = ["AUTO", "FORMATS", "Choice", "Dropped", "Rules", "check_name", "choose_format", "read_records"]

AUTO = "auto"
_LOOKED_AT = 20  # rows, because the first ones may be unusable

FORMATS: dict[str, Format] = {
    "tokens": tokens.FORMAT,
    "nectar": nectar.FORMAT,
    "hh": hh.FORMAT,
    "sharegpt": sharegpt.FORMAT,
    "jsonl": jsonl.FORMAT,
    "ultrafeedback": ultrafeedback.FORMAT,
}
"""By name; ``auto`` chooses the first format that fits one of the file's first rows."""


def check_name(name: str) -> None:
    """Raise ConfigError unless ``name`` is a key of ``FORMATS`` or ``auto``."""
    entry({AUTO: None, **FORMATS}, name, "format", "model.data.format")


@dataclass(frozen=True, slots=True)
class Choice:
    """The format of a file, and those of its columns that are not read."""

    name: str
    unread: tuple[str, ...]


def choose_format(data: str, name: str, *, min_answers: int, ignored_keys: Sequence[str] = ()) -> Choice:
    """Return the format ``name``, or for ``auto`` the one that fits the first rows.

    Raises:
        DataError: the rows do not fit this format, or any; the message names a format that fits.
    """
    first: tuple[str, list[str]] | None = None
    for source, row in islice(read_rows(data), _LOOKED_AT):
        kept = without_keys(row, ignored_keys)
        first = first or (source, list(row))
        fitting = [one for one, own in FORMATS.items() if own.has_columns(kept, min_answers) and own.looks_right(kept)]
        if name == AUTO and not fitting:
            continue
        if name != AUTO and name not in fitting and (fitting or not FORMATS[name].has_columns(kept, min_answers)):
            raise _does_not_fit(source, list(row), name, fitting)
        found = fitting[0] if name == AUTO else name
        read = FORMATS[found].read_columns | CONTEXT_COLUMNS
        others = {column for column in PROMPT_COLUMNS if row.get(column) is not row_prompt(row)}
        return Choice(found, tuple(column for column in row if column not in read or column in others))
    if first is not None:
        raise _does_not_fit(*first, name, [])
    return Choice("jsonl" if name == AUTO else name, ())


def _does_not_fit(source: str, columns: list[str], name: str, fitting: list[str]) -> DataError:
    what, expected = "columns fit no known format", "; ".join(f"{k}: {own.expected}" for k, own in FORMATS.items())
    if name != AUTO:
        what, expected = "columns do not fit the format", f"{FORMATS[name].expected} for {name}"
    fix = f"set model.data.format={fitting[0]}, which fits" if fitting else "rename the columns"
    return DataError(what, where=source, got=columns, expected=expected, fix=fix)
