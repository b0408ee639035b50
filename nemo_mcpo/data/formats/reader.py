# SPDX-License-Identifier: Apache-2.0
"""What a public format is, and how the records of a file in it are read.

A *record* that cannot be used is dropped, counted and listed, so that one bad line does not end a long job;
a *file* that cannot be used (missing, not JSON, other columns) raises DataError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nemo_mcpo.data.formats.context import template_inputs, with_system_turn
from nemo_mcpo.data.formats.records import Answer, BadRecordError, Dropped, order_answers
from nemo_mcpo.data.formats.rows import Row, read_rows
from nemo_mcpo.records import Message, PreferenceRecord

Prompt = tuple[Message, ...] | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Format:
    """How the rows of one public format are read.

    Attributes:
        prompt, answers: of a row; raise BadRecordError where it cannot be used.
        columns: sets of columns, of which a row has one.
        prompt_columns: the same, where only prompts are read.
        optional: further columns that are read.
        looks_right: whether what a row's columns hold can be of this format.
        has_words: whether prompts and answers are text, or token ids.
        drop_ranks: ranks (1 = best) that are left out unless the user says otherwise.
    """

    prompt: Callable[[Row], Prompt]
    answers: Callable[[Row], Sequence[Answer]]
    columns: tuple[frozenset[str], ...]
    prompt_columns: tuple[frozenset[str], ...]
    optional: frozenset[str] = frozenset()
    looks_right: Callable[[Row], bool] = lambda row: True
    has_words: bool = True
    drop_ranks: tuple[int, ...] = ()

    def has_columns(self, row: Row, min_answers: int) -> bool:
        """Whether a row has the columns that it takes to read ``min_answers`` answers, or a prompt alone."""
        accepted = self.columns if min_answers else self.prompt_columns
        return any(names <= row.keys() for names in accepted)

    @property
    def read_columns(self) -> frozenset[str]:
        """Every column that is looked at."""
        return frozenset().union(*self.columns, *self.prompt_columns, self.optional)

    @property
    def expected(self) -> str:
        """The columns of a row, in words."""
        return " or ".join(", ".join(sorted(names)) for names in self.columns)


@dataclass(frozen=True, slots=True)
class Rules:
    """Which records and which of their answers are read.

    Attributes:
        drop_ranks: ranks (1 = best) that are not used, where the data has ranks.
        max_candidates: answers kept after the preferred one; None = all.
        min_answers: a record with fewer is dropped; 0 = read prompts alone.
        ignored_keys: columns, and keys of turns, that are removed before anything is read.
    """

    drop_ranks: Sequence[int] = ()
    max_candidates: int | None = None
    min_answers: int = 2
    ignored_keys: Sequence[str] = ()


def read_records(
    own: Format, data: str, rules: Rules, on_drop: Callable[[Dropped], None]
) -> Iterator[PreferenceRecord]:
    """Streams the records of ``data``, best answer first; ``on_drop`` gets those that cannot be used."""
    for source, row in read_rows(data):
        try:
            yield _record(own, source, without_keys(row, rules.ignored_keys), rules)
        except BadRecordError as error:
            on_drop(Dropped(source, error.reason, error.detail))


def without_keys(row: Row, ignored: Sequence[str]) -> Row:
    """A row without some columns, and without these keys in the objects that its columns hold."""
    if not ignored:
        return row
    kept = {name: value for name, value in row.items() if name not in ignored}
    return {name: _without(value, ignored) for name, value in kept.items()}


def _record(own: Format, source: str, row: Row, rules: Rules) -> PreferenceRecord:
    prompt, inputs = own.prompt(row), ""
    if own.has_words:
        turns = tuple(turn for turn in prompt if isinstance(turn, Message))
        prompt, inputs = with_system_turn(row, turns), template_inputs(row)
    if not rules.min_answers:
        return PreferenceRecord(source, prompt, (), inputs)
    responses = order_answers(own.answers(row), rules.drop_ranks, rules.max_candidates, rules.min_answers)
    return PreferenceRecord(source, prompt, responses, inputs)


def _without(value: object, ignored: Sequence[str]) -> object:
    if isinstance(value, list):
        return [_without(item, ignored) for item in value]
    return {k: v for k, v in value.items() if k not in ignored} if isinstance(value, dict) else value
