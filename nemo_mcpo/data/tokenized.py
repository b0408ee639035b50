# SPDX-License-Identifier: Apache-2.0
"""From records to rows of token ids within the limits, chunk after chunk; or the reason why a record is dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from nemo_mcpo.data.chat_template import RefusedByTemplate
from nemo_mcpo.data.cutting import CutSequences, cut_prompt, cut_sequences
from nemo_mcpo.data.formats import Dropped
from nemo_mcpo.data.rendered_record import RenderedRecord, check_thoughts, encode_continuations, render_record
from nemo_mcpo.data.tokenization import ChatTokenizer, encode_prompts
from nemo_mcpo.records import PreferenceRecord

_CHUNK = 256  # records in flight at a time: enough to keep all cores busy, a few hundred MB with long answers


@dataclass(frozen=True, slots=True)
class Row:
    """One record as it is written.

    Attributes:
        source: ``file:line``.
        tokens: what is kept of the prompt and of each answer.
        scores: of each answer.
        repeated: answers left out because an earlier one has the same tokens.
    """

    source: str
    tokens: CutSequences
    scores: list[float | None]
    repeated: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What a row may hold.

    Attributes:
        vocab_size: ids from this one on are refused; None = any.
        max_prompt_length: tokens of a prompt.
        max_length: tokens of a prompt and one of its answers together.
        min_answers: different ones; a record with fewer is dropped.
        keep_repeated: keep answers that have the same tokens as an earlier one.
    """

    vocab_size: int | None
    max_prompt_length: int
    max_length: int
    min_answers: int
    keep_repeated: bool


def tokenized(
    records: Iterator[PreferenceRecord], chat: ChatTokenizer | None, limits: Limits
) -> Iterator[list[Row | Dropped]]:
    """Tokenizes chunk after chunk in a separate thread, while the caller reads and writes.

    Args:
        chat: None where records are token ids.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = None
        while chunk := list(islice(records, _CHUNK)):
            following = pool.submit(_tokenize, chunk, chat, limits)
            if running:
                yield running.result()
            running = following
        if running:
            yield running.result()


def _tokenize(records: list[PreferenceRecord], chat: ChatTokenizer | None, limits: Limits) -> list[Row | Dropped]:
    if chat is None:
        return [
            _row(record, [record.prompt, *(response.tokens for response in record.responses)], limits)  # type: ignore[list-item]
            for record in records
        ]
    rendered = [_rendered(chat, record) for record in records]
    usable = [one for one in rendered if isinstance(one, RenderedRecord)]
    prompts = iter(encode_prompts(chat, [one.prompt for one in usable]))
    answers = iter(encode_continuations(chat, [answer for one in usable for answer in one.answers]))
    rows: list[Row | Dropped] = []
    for record, one in zip(records, rendered, strict=True):
        if isinstance(one, Dropped):
            rows.append(one)
        else:
            rows.append(_text_row(chat, record, next(prompts), list(islice(answers, len(one.answers))), limits))
    return rows


def _rendered(chat: ChatTokenizer, record: PreferenceRecord) -> RenderedRecord | Dropped:
    try:
        rendered = render_record(chat, record)
        check_thoughts(chat, rendered)
        return rendered
    except RefusedByTemplate as error:
        return Dropped(record.source, error.reason, error.detail)


def _text_row(
    chat: ChatTokenizer, record: PreferenceRecord, prompt: list[int], answers: list[list[int]], limits: Limits
) -> Row | Dropped:
    lost = 0
    if len(prompt) > limits.max_prompt_length:
        try:
            whole, prompt = len(prompt), cut_prompt(chat, record, limits.max_prompt_length)
        except RefusedByTemplate as error:
            return Dropped(record.source, error.reason, error.detail)
        lost = whole - len(prompt)
    return _row(record, [prompt, *answers], limits, lost)


def _row(record: PreferenceRecord, sequences: Sequence[Sequence[int]], limits: Limits, lost: int = 0) -> Row | Dropped:
    """The row of a record; ``lost`` tokens of its prompt are gone already."""
    prompt, *completions = [np.asarray(ids, dtype=np.int64) for ids in sequences]
    if not len(prompt):
        return Dropped(record.source, "empty prompt", "it has no tokens")
    every = np.concatenate((prompt, *completions))
    low, high = int(every.min()), int(every.max())
    size = limits.vocab_size or 2**31
    if low < 0 or high >= size:
        return Dropped(record.source, "token id outside the vocabulary", f"{low if low < 0 else high} of {size}")
    cut = cut_sequences(prompt, completions, limits.max_prompt_length, limits.max_length)
    keep = list(range(len(completions))) if limits.keep_repeated else _different(cut.completions)
    if len(keep) < limits.min_answers:
        same = len(_different(completions)) < limits.min_answers
        reason = "the answers are all the same" if same else "the answers are all the same once they are cut"
        return Dropped(record.source, reason, f"{len(completions)} answers, max_length {limits.max_length}")
    scores = [response.score for response in record.responses]
    tokens = CutSequences(
        cut.prompt,
        tuple(cut.completions[k] for k in keep),
        (lost + cut.lost[0], *(cut.lost[1 + k] for k in keep)),
    )
    return Row(record.source, tokens, [scores[k] for k in keep], len(completions) - len(keep))


def _different(completions: Sequence[np.ndarray]) -> list[int]:
    """The first of all that have the same tokens."""
    first: dict[bytes, int] = {}
    for number, completion in enumerate(completions):
        first.setdefault(completion.tobytes(), number)
    return list(first.values())
