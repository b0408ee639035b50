# SPDX-License-Identifier: Apache-2.0
"""Token counts of texts for a judge, and the strings that its tokenizer reads as control tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from nemo_mcpo.judging.excerpt import CountTokens
from nemo_mcpo.judging.fence import CONTROL_TOKENS, with_tokens


@dataclass(frozen=True, slots=True)
class JudgeTokens:
    """What is known about a judge's tokenizer.

    Attributes:
        count: counts the tokens of a text; thread-safe.
        control_tokens: strings that must not reach the tokenizer.
        is_exact: whether the tokenizer is available, so that counts are exact.
    """

    count: CountTokens
    control_tokens: re.Pattern[str]
    is_exact: bool


def tokens_of(model: str) -> JudgeTokens:
    """Use the tokenizer in a directory, or estimates if ``model`` is a name or has no tokenizer.json."""
    file = Path(model) / "tokenizer.json"
    if not file.is_file():
        return JudgeTokens(estimate_tokens, CONTROL_TOKENS, False)
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special = (token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
    return JudgeTokens(
        lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids), with_tokens(special), True
    )


def estimate_tokens(text: str) -> int:
    """Estimate the number of tokens of a text; usually too high for prose, code, and CJK.

    Letters and white space count 1/4, digits and punctuation 1, non-ASCII characters 3/2.

    >>> estimate_tokens("What is 2+2?")
    6
    """
    others = sum(character > "\x7f" for character in text)
    words = sum(character.isascii() and (character.isalpha() or character.isspace()) for character in text)
    return -(-words // 4) + (len(text) - words - others) + -(-3 * others // 2)
