# SPDX-License-Identifier: Apache-2.0
"""Turns records into rows of token ids within the limits, chunk by chunk, or into reasons why they are dropped."""

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

_CHUNK = 256  # records: enough to keep all cores busy, and at most a few hundred MB with long responses


@dataclass(frozen=True, slots=True)
class Row:
    """One record, ready to be written.

    Attributes:
        source: ``file:line``.
        tokens: the prompt and its completions within the limits.
        scores: one per completion.
        repeated: number of responses left out because an earlier one has the same tokens.
    """

    source: str
    tokens: CutSequences
    scores: list[float | None]
    repeated: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a row. Field names are keys of the recipe: renaming one would rebuild all prepared datasets.

    Attributes:
        vocab_size: token ids must be below it; None = no limit.
        max_prompt_length: tokens of a prompt; see ``data.cutting``.
        max_length: tokens of a prompt together with one response.
        min_answers: a record with fewer different responses is dropped; 0 = only prompts are read.
        keep_repeated: keep responses with the same tokens as an earlier one.
    """

    vocab_size: int | None
    max_prompt_length: int
    max_length: int
    min_answers: int
    keep_repeated: bool


def tokenized(
    records: Iterator[PreferenceRecord], chat: ChatTokenizer | None, limits: Limits
) -> Iterator[list[Row | Dropped]]:
    """Yield the rows of one chunk after another; a separate thread tokenizes while the caller reads and writes.

    Args:
        chat: None if the records are token ids.
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
    completions = iter(encode_continuations(chat, [text for one in usable for text in one.continuations]))
    rows: list[Row | Dropped] = []
    for record, one in zip(records, rendered, strict=True):
        if isinstance(one, Dropped):
            rows.append(one)
        else:
            own = list(islice(completions, len(one.continuations)))
            rows.append(_text_row(chat, record, next(prompts), own, limits))
    return rows


def _rendered(chat: ChatTokenizer, record: PreferenceRecord) -> RenderedRecord | Dropped:
    try:
        rendered = render_record(chat, record)
        check_thoughts(chat, rendered)
        return rendered
    except RefusedByTemplate as error:
        return Dropped(record.source, error.reason, error.detail)


def _text_row(
    chat: ChatTokenizer, record: PreferenceRecord, prompt: list[int], completions: list[list[int]], limits: Limits
) -> Row | Dropped:
    lost = 0
    if len(prompt) > limits.max_prompt_length:
        try:
            whole, prompt = len(prompt), cut_prompt(chat, record, limits.max_prompt_length)
        except RefusedByTemplate as error:
            return Dropped(record.source, error.reason, error.detail)
        lost = whole - len(prompt)
    return _row(record, [prompt, *completions], limits, lost)


def _row(record: PreferenceRecord, sequences: Sequence[Sequence[int]], limits: Limits, lost: int = 0) -> Row | Dropped:
    """Return the row of a record whose prompt has already lost ``lost`` tokens."""
    prompt, *completions = [np.asarray(ids, dtype=np.int64) for ids in sequences]
    if not len(prompt):
        return Dropped(record.source, "empty prompt", "no tokens")
    every = np.concatenate((prompt, *completions))
    low, high = int(every.min()), int(every.max())
    size = limits.vocab_size or 2**31
    if low < 0 or high >= size:
        detail = f"id {low if low < 0 else high}, vocabulary size {size}"
        return Dropped(record.source, "token id outside the vocabulary", detail)
    cut = cut_sequences(prompt, completions, limits.max_prompt_length, limits.max_length)
    keep = list(range(len(completions))) if limits.keep_repeated else _different(cut.completions)
    if len(keep) < limits.min_answers:
        same = len(_different(completions)) < limits.min_answers
        reason = "all responses are identical" if same else "all responses are identical after truncation"
        return Dropped(record.source, reason, f"{len(completions)} responses, max_length {limits.max_length}")
    scores = [response.score for response in record.responses]
    tokens = CutSequences(
        cut.prompt,
        tuple(cut.completions[k] for k in keep),
        (lost + cut.lost[0], *(cut.lost[1 + k] for k in keep)),
    )
    return Row(record.source, tokens, [scores[k] for k in keep], len(completions) - len(keep))


def _different(completions: Sequence[np.ndarray]) -> list[int]:
    """Return the numbers of the completions without repetitions, the first of each."""
    first: dict[bytes, int] = {}
    for number, completion in enumerate(completions):
        first.setdefault(completion.tobytes(), number)
    return list(first.values())
