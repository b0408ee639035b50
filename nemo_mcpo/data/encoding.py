# SPDX-License-Identifier: Apache-2.0
"""Encoding of texts on all cores; the caller decides whether special tokens spelled in a text become tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerFast


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, special_text: bool) -> list[list[int]]:
    """Return the token ids of each text, without tokens that the tokenizer would add.

    Args:
        special_text: whether a special token spelled in a text ("</s>") stays text.
    """
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = special_text
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def encode_around(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], marks: Mapping[str, int]
) -> list[list[int]]:
    """Return the token ids of texts in which only ``marks`` become special tokens."""
    if not marks:
        return encode_texts(tokenizer, texts, special_text=True)
    split = re.compile("(" + "|".join(map(re.escape, marks)) + ")")
    pieces = [split.split(text) for text in texts]
    encoded = iter(encode_texts(tokenizer, [one for own in pieces for one in own], special_text=True))
    return [[token for one in own for token in _piece(one, next(encoded), marks)] for own in pieces]


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Return all special tokens, from spelling to id."""
    return {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def _piece(text: str, ids: list[int], marks: Mapping[str, int]) -> list[int]:
    return [marks[text]] if text in marks else ids
