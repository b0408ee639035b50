# SPDX-License-Identifier: Apache-2.0
"""A token estimate that is rarely too low."""

from __future__ import annotations

import pytest

from nemo_mcpo.config.online import INSTRUCTION_TOKENS
from nemo_mcpo.judging.comparison import INSTRUCTIONS, REMINDER
from nemo_mcpo.judging.tokens import estimate_tokens, tokens_of


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("word", 1), ("a word", 2), ("1234", 4), ("x=[1];", 6), ("äöü", 5), ("你好", 3)]
)
def test_estimates(text, tokens):
    assert estimate_tokens(text) == tokens


def test_the_instructions_have_room():
    assert estimate_tokens(INSTRUCTIONS + REMINDER) + 64 <= INSTRUCTION_TOKENS


def test_a_name_is_estimated(tmp_path):
    for model in ("a-judge", str(tmp_path)):
        known = tokens_of(model)
        assert not known.is_exact and known.count is estimate_tokens
