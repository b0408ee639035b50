# SPDX-License-Identifier: Apache-2.0
"""Definition of a public format, and the reader for records of a file in that format.

A *record* that cannot be used is dropped, counted, and listed, so that one bad line does not end a long job. A *file*
that cannot be used (missing, not JSON, wrong columns) raises DataError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nemo_mcpo.data.formats.context import template_inputs, with_system_turn
from nemo_mcpo.data.formats.records import BadRecordError, Dropped, RawResponse, order_responses
from nemo_mcpo.data.formats.rows import Row, read_rows
from nemo_mcpo.records import Message, PreferenceRecord

Prompt = tuple[Message, ...] | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Format:
    """How to read the rows of one public format.

    Attributes:
        prompt, responses: read a row's prompt and its responses; raise BadRecordError if it cannot be used.
        columns: alternative sets of columns; a row needs all columns of one set.
        prompt_columns: the same, if only prompts are read.
        optional: further columns that are read.
        looks_right: whether the values in a row's columns can be of this format.
        has_text: whether prompts and responses are text; False = token ids.
        drop_ranks: ranks (1 = best) that are dropped unless the user sets others.
    """

    prompt: Callable[[Row], Prompt]
    responses: Callable[[Row], Sequence[RawResponse]]
    columns: tuple[frozenset[str], ...]
    prompt_columns: tuple[frozenset[str], ...]
    optional: frozenset[str] = frozenset()
    looks_right: Callable[[Row], bool] = lambda row: True
    has_text: bool = True
    drop_ranks: tuple[int, ...] = ()

    def has_columns(self, row: Row, min_answers: int) -> bool:
        """Return whether a row has the columns of a prompt with responses, or of a prompt if ``min_answers`` is 0."""
        accepted = self.columns if min_answers else self.prompt_columns
        return any(names <= row.keys() for names in accepted)

    @property
    def read_columns(self) -> frozenset[str]:
        """All columns that are read."""
        return frozenset().union(*self.columns, *self.prompt_columns, self.optional)

    @property
    def expected(self) -> str:
        """The columns of a row, for error messages."""
        return " or ".join(", ".join(sorted(names)) for names in self.columns)


@dataclass(frozen=True, slots=True)
class Rules:
    """Which records and responses are used. Like those of ``Limits``, field names are keys of the recipe.

    Attributes:
        drop_ranks: ranks (1 = best) that are not used, if the data has ranks.
        max_candidates: responses kept besides the preferred one; None = all.
        min_answers: a record with fewer responses is dropped; 0 = only prompts are read.
        ignored_keys: columns, and keys of turns, that are removed before anything is read.
    """

    drop_ranks: Sequence[int] = ()
    max_candidates: int | None = None
    min_answers: int = 2
    ignored_keys: Sequence[str] = ()


def read_records(
    own: Format, data: str, rules: Rules, on_drop: Callable[[Dropped], None]
) -> Iterator[PreferenceRecord]:
    """Yield the records of ``data``, best response first; call ``on_drop`` for those that cannot be used."""
    for source, row in read_rows(data):
        try:
            yield _record(own, source, without_keys(row, rules.ignored_keys), rules)
        except BadRecordError as error:
            on_drop(Dropped(source, error.reason, error.detail))


def without_keys(row: Row, ignored: Sequence[str]) -> Row:
    """Return a row without these keys, both as columns and in the objects that its columns hold."""
    if not ignored:
        return row
    kept = {name: value for name, value in row.items() if name not in ignored}
    return {name: _without(value, ignored) for name, value in kept.items()}


def _record(own: Format, source: str, row: Row, rules: Rules) -> PreferenceRecord:
    prompt, inputs = own.prompt(row), ""
    if own.has_text:
        turns = tuple(turn for turn in prompt if isinstance(turn, Message))
        prompt, inputs = with_system_turn(row, turns), template_inputs(row)
    if not rules.min_answers:
        return PreferenceRecord(source, prompt, (), inputs)
    responses = order_responses(own.responses(row), rules.drop_ranks, rules.max_candidates, rules.min_answers)
    return PreferenceRecord(source, prompt, responses, inputs)


def _without(value: object, ignored: Sequence[str]) -> object:
    if isinstance(value, list):
        return [_without(item, ignored) for item in value]
    return {k: v for k, v in value.items() if k not in ignored} if isinstance(value, dict) else value
