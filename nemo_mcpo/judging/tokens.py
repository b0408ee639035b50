# SPDX-License-Identifier: Apache-2.0
"""How many tokens a text has for a judge, and which texts its tokenizer reads as control tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from nemo_mcpo.judging.excerpt import CountTokens
from nemo_mcpo.judging.fence import CONTROL_TOKENS, with_tokens


@dataclass(frozen=True, slots=True)
class JudgeTokens:
    """What is known of a judge's tokenizer.

    Attributes:
        count: tokens of a text; threads may share it.
        control_tokens: texts that may not reach the tokenizer.
        is_exact: the tokenizer is at hand.
    """

    count: CountTokens
    control_tokens: re.Pattern[str]
    is_exact: bool


def tokens_of(model: str) -> JudgeTokens:
    """By the tokenizer in a directory; by an estimate where ``model`` is a name, or has no tokenizer.json."""
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
    """About as many tokens as a tokenizer makes that is not at hand: rather more for prose, code, and CJK.

    Letters and white space count a quarter, digits and punctuation one, characters beyond ASCII one and a half.

    >>> estimate_tokens("What is 2+2?")
    6
    """
    others = sum(character > "\x7f" for character in text)
    words = sum(character.isascii() and (character.isalpha() or character.isspace()) for character in text)
    return -(-words // 4) + (len(text) - words - others) + -(-3 * others // 2)
