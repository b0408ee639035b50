# SPDX-License-Identifier: Apache-2.0
"""Builds the prepared dataset of a data file once; later calls open it.

    <cache_dir>/prepared/<fingerprint>/     one directory per combination of file, tokenizer, template, and limits

Records are read, tokenized, and written in chunks, so memory does not grow with the file. One thread tokenizes (in
Rust, on all cores) while the main thread reads the next chunk and writes the previous one.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nemo_mcpo.data.chat_template import RECIPE
from nemo_mcpo.data.formats import AUTO, FORMATS, Dropped, Rules, check_name, choose_format, read_records
from nemo_mcpo.data.formats.rows import check_exists, content_hash, count_rows
from nemo_mcpo.data.prepared import PreparedDataset, PreparedWriter, fingerprint_of
from nemo_mcpo.data.tokenization import ChatTokenizer, load_chat_tokenizer, tokenizer_hash
from nemo_mcpo.data.tokenized import Limits, Row, tokenized
from nemo_mcpo.errors import ConfigError, DataError
from nemo_mcpo.storage.atomic import built_once


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
    ignored_keys: Sequence[str] = (),
    keep_repeated: bool = False,
) -> PreparedDataset:
    """Open the prepared dataset of ``data``; build it first if it does not exist.

    Args:
        data: a file, a ``save_to_disk`` directory, or a hub name.
        data_format: a key of ``FORMATS``, or ``auto``.
        tokenizer_dir: the model's directory; not needed for the format ``tokens``.
        vocab_size: token ids must be below it; None = the size in the directory's ``config.json``, or the tokenizer's.
        max_prompt_length, max_length, min_answers, keep_repeated: see ``Limits``.
        drop_ranks: see ``Rules``; None = the format's default.
        max_candidates, ignored_keys: see ``Rules``.
        progress: print the format and show a progress bar.

    Raises:
        ConfigError: a limit is out of range, or the format is unknown.
        DataError: the data or the tokenizer cannot be used, or the dataset cannot be written.
    """
    _check_limits(data_format, max_prompt_length, max_length, max_candidates)
    check_exists(data)
    choice = choose_format(data, data_format, min_answers=min_answers, ignored_keys=ignored_keys)
    has_text = FORMATS[choice.name].has_text
    if progress:
        unread = f"; unused columns: {', '.join(choice.unread)}" if choice.unread else ""
        print(f"{data}: format {choice.name}{' (detected)' if data_format == AUTO else ''}{unread}", flush=True)
    chat = load_chat_tokenizer(tokenizer_dir or "") if has_text else None
    limits = Limits(
        vocab_size or _vocab_size(tokenizer_dir, chat), max_prompt_length, max_length, min_answers, keep_repeated
    )
    dropped_ranks = FORMATS[choice.name].drop_ranks if drop_ranks is None else drop_ranks
    rules = Rules(sorted(set(dropped_ranks)), max_candidates, min_answers, sorted(set(ignored_keys)))
    recipe = {
        "data": content_hash(data),
        "format": choice.name,
        "tokenizer": tokenizer_hash(tokenizer_dir) if chat and tokenizer_dir else None,
        "template": [chat.tokenizer.chat_template, RECIPE, asdict(chat.turn)] if chat else None,
        **asdict(limits),
        **asdict(rules),
    }
    directory = Path(cache_dir) / "prepared" / fingerprint_of(recipe)
    if not directory.exists():
        try:
            name = f"preparing {Path(data).name}"
            with (
                built_once(directory) as temporary,
                contextlib.closing(PreparedWriter(temporary)) as writer,
                tqdm(total=count_rows(data), unit=" prompts", desc=name, disable=not progress) as bar,
            ):
                _fill(writer, data, chat, limits, rules, recipe, bar)
        except OSError as error:
            fix = "free some space, or choose another cache directory"
            raise DataError("cannot write the prepared dataset", where=cache_dir, got=error, fix=fix) from error
    return PreparedDataset(directory)


def _fill(
    writer: PreparedWriter,
    data: str,
    chat: ChatTokenizer | None,
    limits: Limits,
    rules: Rules,
    recipe: dict[str, Any],
    bar: tqdm,
) -> None:
    dropped: Counter[str] = Counter()
    details: dict[str, str] = {}
    repeated = 0

    def drop(record: Dropped) -> None:
        dropped[record.reason] += 1
        details.setdefault(record.reason, f" ({record.detail})" if record.detail else "")
        writer.drop(record.source, record.reason, record.detail)
        bar.update()

    records = read_records(FORMATS[recipe["format"]], data, rules, drop)
    for rows in tokenized(records, chat, limits):
        for row in rows:
            if isinstance(row, Row):
                writer.add(row.source, row.tokens.prompt, row.tokens.completions, row.scores, row.tokens.lost)
                repeated += row.repeated
                bar.update()
            else:
                drop(row)
        seconds = max(bar.format_dict["elapsed"], 1e-9)
        bar.set_postfix_str(f"{writer.num_tokens / seconds / 1e3:.0f}k tokens/s", refresh=False)
    if not len(writer):
        got = (
            ", ".join(f"{count} x {reason}{details[reason]}" for reason, count in dropped.most_common())
            or "no records"
        )
        fix = "check model.data.format and the content of the file"
        expected = f"a prompt with at least {rules.min_answers} responses" if rules.min_answers else "a prompt"
        raise DataError("no usable record", where=data, got=got, expected=expected, fix=fix)
    writer.finish(recipe, dropped=dropped, repeated_answers=repeated)


def _vocab_size(tokenizer_dir: str | None, chat: ChatTokenizer | None) -> int | None:
    """Return the vocabulary size in the model's ``config.json`` if there is one, else the tokenizer's."""
    path = Path(tokenizer_dir, "config.json") if tokenizer_dir else None
    if path and path.is_file():
        try:
            size = json.loads(path.read_text(encoding="utf-8")).get("vocab_size")
        except (ValueError, AttributeError) as error:
            fix = "download or write config.json again"
            raise DataError("not a model configuration", where=str(path), fix=fix) from error
        if isinstance(size, int):
            return size
    return len(chat.tokenizer) if chat else None


def _check_limits(data_format: str, max_prompt_length: int, max_length: int, max_candidates: int | None) -> None:
    check_name(data_format)
    if max_prompt_length < 1:
        raise ConfigError(
            "too short", where="model.data.max_prompt_length", got=max_prompt_length, expected="at least 1"
        )
    if max_length <= max_prompt_length:
        expected = f"more than max_prompt_length ({max_prompt_length})"
        fix = "leave room for the responses"
        raise ConfigError("too short", where="model.data.max_length", got=max_length, expected=expected, fix=fix)
    if max_candidates is not None and max_candidates < 1:
        raise ConfigError(
            "too few", where="model.data.max_candidates", got=max_candidates, expected="at least 1 or null"
        )
