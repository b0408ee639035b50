# SPDX-License-Identifier: Apache-2.0
"""Texts as token ids, on all cores; the caller says whether a text that spells a special token becomes that token."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerFast


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, special_text: bool) -> list[list[int]]:
    """Token ids of each text, without those that the tokenizer adds by itself.

    Args:
        special_text: whether a special token that a text spells out ("</s>") stays text.
    """
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = special_text
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def encode_around(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], marks: Mapping[str, int]
) -> list[list[int]]:
    """Token ids of texts in which only ``marks`` are special tokens."""
    if not marks:
        return encode_texts(tokenizer, texts, special_text=True)
    split = re.compile("(" + "|".join(map(re.escape, marks)) + ")")
    pieces = [split.split(text) for text in texts]
    encoded = iter(encode_texts(tokenizer, [one for own in pieces for one in own], special_text=True))
    return [[token for one in own for token in _piece(one, next(encoded), marks)] for own in pieces]


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """All special tokens: what spells them, and their ids."""
    return {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def _piece(text: str, ids: list[int], marks: Mapping[str, int]) -> list[int]:
    return [marks[text]] if text in marks else ids
