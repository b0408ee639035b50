# SPDX-License-Identifier: Apache-2.0
"""Makes the prepared dataset of a data file once, and opens it ever after.

    <cache_dir>/prepared/<fingerprint>/     one directory for each combination of file, tokenizer, template and limits

Records are read, tokenised and written in chunks, so memory does not grow with the file; one thread tokenises (in
Rust, on all cores) while the main thread reads the next chunk and writes the one before.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from tqdm import tqdm

from nemo_mcpo.data.formats import DROP_RANKS, FORMATS, Dropped
from nemo_mcpo.data.formats.rows import check_exists, content_hash, count_rows
from nemo_mcpo.data.prepared import PreparedDataset, PreparedWriter, fingerprint_of
from nemo_mcpo.data.tokenization import (
    TEMPLATE_ARGUMENTS,
    ChatTokenizer,
    Truncated,
    encode_answers,
    encode_prompts,
    load_chat_tokenizer,
    render_prompt,
    tokenizer_hash,
    truncate,
)
from nemo_mcpo.errors import ConfigError, DataError
from nemo_mcpo.records import Message, PreferenceRecord

_CHUNK = 256  # records in flight at a time: enough to keep all cores busy, a few hundred MB with long answers


@dataclass(frozen=True, slots=True)
class _Row:
    source: str
    tokens: Truncated
    scores: list[float | None]


@dataclass(frozen=True, slots=True)
class _Limits:
    vocab_size: int | None
    max_prompt_length: int
    max_length: int


def prepare_dataset(
    *,
    data: str,
    data_format: str,
    tokenizer_dir: str | None,
    vocab_size: int | None,
    max_prompt_length: int,
    max_length: int,
    drop_ranks: Sequence[int] | None,
    max_candidates: int | None,
    cache_dir: str,
    progress: bool,
    min_answers: int = 2,
) -> PreparedDataset:
    """Opens the prepared dataset of ``data``, which is built first when it is not there yet.

    Args:
        data: a file, a ``save_to_disk`` directory, or a hub name.
        data_format: a key of ``FORMATS``.
        tokenizer_dir: the model's directory; the format ``tokens`` does without.
        vocab_size: ids from here on are refused; None = what the directory's ``config.json`` or tokenizer says.
        max_prompt_length: tokens kept of a prompt, its last ones.
        max_length: tokens of a prompt and one of its answers together.
        drop_ranks: ranks (1 = best) that are not used, where the data has ranks; None = what suits the format.
        max_candidates: answers kept after the preferred one; None = all.
        cache_dir: where prepared datasets live.
        progress: show a progress bar.
        min_answers: a record with fewer is dropped; 0 = read prompts alone, whatever answers there are.
    """
    _check_limits(data_format, max_prompt_length, max_length, max_candidates)
    check_exists(data)
    chat = None if data_format == "tokens" else load_chat_tokenizer(tokenizer_dir or "")
    limits = _Limits(vocab_size or _vocab_size(tokenizer_dir, chat), max_prompt_length, max_length)
    dropped_ranks = DROP_RANKS.get(data_format, ()) if drop_ranks is None else drop_ranks
    options = {"drop_ranks": sorted(set(dropped_ranks)), "max_candidates": max_candidates, "min_answers": min_answers}
    recipe = {
        "data": content_hash(data),
        "format": data_format,
        "tokenizer": tokenizer_hash(tokenizer_dir) if chat and tokenizer_dir else None,
        "template": [chat.template, TEMPLATE_ARGUMENTS, chat.lead, chat.end_of_turn] if chat else None,
        "vocab_size": limits.vocab_size,
        "max_prompt_length": max_prompt_length,
        "max_length": max_length,
        **options,
    }
    directory = Path(cache_dir) / "prepared" / fingerprint_of(recipe)
    if not directory.exists():
        try:
            _build(data, chat, limits, recipe, directory, progress)
        except OSError as error:
            cure = "free space, or choose another cache directory"
            raise DataError("the prepared dataset was not written", where=cache_dir, got=error, cure=cure) from error
    return PreparedDataset(directory)


def _build(
    data: str, chat: ChatTokenizer | None, limits: _Limits, recipe: dict[str, Any], directory: Path, progress: bool
) -> None:
    """Builds under a temporary name and renames, so that nothing half-written ever has the final name."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(directory.parent)
    temporary = directory.parent / f".{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}"
    temporary.mkdir()
    writer = PreparedWriter(temporary)
    try:
        with tqdm(
            total=count_rows(data), unit=" prompts", desc=f"preparing {Path(data).name}", disable=not progress
        ) as bar:
            _fill(writer, data, chat, limits, recipe, bar)
        with contextlib.suppress(FileExistsError):
            _publish(temporary, directory)
    finally:
        writer.close()
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(
    writer: PreparedWriter,
    data: str,
    chat: ChatTokenizer | None,
    limits: _Limits,
    recipe: dict[str, Any],
    bar: tqdm,
) -> None:
    dropped: Counter[str] = Counter()
    cut = Counter(prompts=0, answers=0)

    def drop(record: Dropped) -> None:
        dropped[record.reason] += 1
        writer.drop(record.source, record.reason, record.detail)
        bar.update()

    def write(rows: list[_Row | Dropped]) -> None:
        for row in rows:
            if isinstance(row, Dropped):
                drop(row)
                continue
            writer.add(row.source, row.tokens.prompt, row.tokens.completions, row.scores)
            cut.update(prompts=row.tokens.prompts_cut, answers=row.tokens.answers_cut)
            bar.update()
        seconds = max(bar.format_dict["elapsed"], 1e-9)
        bar.set_postfix_str(f"{writer.num_tokens / seconds / 1e3:.0f}k tokens/s", refresh=False)

    rules = {name: recipe[name] for name in ("drop_ranks", "max_candidates", "min_answers")}
    records = FORMATS[recipe["format"]](data, **rules, on_drop=drop)
    for rows in _tokenised(records, chat, limits):
        write(rows)
    if not len(writer):
        got = ", ".join(f"{count} x {reason}" for reason, count in dropped.most_common()) or "no records"
        cure = "check model.data.format and the file's content"
        expected = f"a prompt with {recipe['min_answers']} answers" if recipe["min_answers"] else "a prompt"
        raise DataError("no usable record", where=data, got=got, expected=expected, cure=cure)
    writer.finish(recipe, dropped=dropped, truncated_prompts=cut["prompts"], truncated_answers=cut["answers"])


def _tokenised(
    records: Iterator[PreferenceRecord], chat: ChatTokenizer | None, limits: _Limits
) -> Iterator[list[_Row | Dropped]]:
    """Tokenises chunk after chunk in a thread of its own; the caller writes and reads meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = None
        while chunk := list(islice(records, _CHUNK)):
            following = pool.submit(_tokenise, chunk, chat, limits)
            if running:
                yield running.result()
            running = following
        if running:
            yield running.result()


def _tokenise(records: list[PreferenceRecord], chat: ChatTokenizer | None, limits: _Limits) -> list[_Row | Dropped]:
    if chat is None:
        return [
            _row(record, [record.prompt, *(response.tokens for response in record.responses)], limits)
            for record in records
        ]
    rows: list[_Row | Dropped] = []
    usable, texts = [], []
    for record in records:
        try:
            texts.append(render_prompt(chat, [turn for turn in record.prompt if isinstance(turn, Message)]))
            usable.append(record)
        except jinja2.TemplateError as error:
            rows.append(Dropped(record.source, "chat template refused the prompt", str(error)[:200]))
    prompts = encode_prompts(chat, texts)
    answers = iter(encode_answers(chat, [response.text or "" for record in usable for response in record.responses]))
    for record, prompt in zip(usable, prompts, strict=True):
        rows.append(_row(record, [prompt, *islice(answers, len(record.responses))], limits))
    return rows


def _row(record: PreferenceRecord, sequences: list[Any], limits: _Limits) -> _Row | Dropped:
    prompt, *completions = [np.asarray(ids, dtype=np.int64) for ids in sequences]
    if not len(prompt):
        return Dropped(record.source, "empty prompt", "it has no tokens")
    every = np.concatenate((prompt, *completions))
    low, high = int(every.min()), int(every.max())
    size = limits.vocab_size or 2**31
    if low < 0 or high >= size:
        return Dropped(record.source, "token id outside the vocabulary", f"{low if low < 0 else high} of {size}")
    tokens = truncate(prompt, completions, limits.max_prompt_length, limits.max_length)
    return _Row(record.source, tokens, [response.score for response in record.responses])


def _publish(temporary: Path, directory: Path) -> None:
    """Renames; when another process was first, its result is the same and ours goes."""
    try:
        temporary.rename(directory)
    except OSError as error:
        if directory.is_dir():
            raise FileExistsError(directory) from error
        raise
    descriptor = os.open(directory.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _remove_leftovers(parent: Path) -> None:
    """Removes what killed builds of this machine left behind; a build that still runs is not touched."""
    for path in parent.glob(f".{socket.gethostname()}.*.*"):
        process = path.name.removeprefix(f".{socket.gethostname()}.").split(".")[0]
        try:
            os.kill(int(process), 0)  # signal 0 only asks whether the process is there
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


def _vocab_size(tokenizer_dir: str | None, chat: ChatTokenizer | None) -> int | None:
    """The model's vocabulary where its configuration is at hand, else the tokenizer's."""
    path = Path(tokenizer_dir, "config.json") if tokenizer_dir else None
    if path and path.is_file():
        try:
            size = json.loads(path.read_text(encoding="utf-8")).get("vocab_size")
        except (ValueError, AttributeError) as error:
            raise DataError("not a model configuration", where=str(path), cure="write config.json again") from error
        if isinstance(size, int):
            return size
    return len(chat.tokenizer) if chat else None


def _check_limits(data_format: str, max_prompt_length: int, max_length: int, max_candidates: int | None) -> None:
    if data_format not in FORMATS:
        raise ConfigError(
            "unknown format", where="model.data.format", got=data_format, expected=f"one of {list(FORMATS)}"
        )
    if max_prompt_length < 1:
        raise ConfigError(
            "too short", where="model.data.max_prompt_length", got=max_prompt_length, expected="at least 1"
        )
    if max_length <= max_prompt_length:
        expected = f"more than max_prompt_length ({max_prompt_length})"
        cure = "leave room for the answers"
        raise ConfigError("too short", where="model.data.max_length", got=max_length, expected=expected, cure=cure)
    if max_candidates is not None and max_candidates < 1:
        raise ConfigError(
            "too few", where="model.data.max_candidates", got=max_candidates, expected="at least 1 or null"
        )
