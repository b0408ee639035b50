# SPDX-License-Identifier: Apache-2.0
"""What the judge sees, and how its verdict is read."""

from __future__ import annotations

import pytest

from nemo_mcpo.judging.comparison import comparison_messages, read_verdict
from nemo_mcpo.records import Message


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Both are fine. <verdict>A</verdict>", "first"),
        ("<verdict> b </verdict>\n", "second"),
        ("<VERDICT>Tie</VERDICT>", "tie"),
        ("I could say <verdict>A</verdict>, but no: <verdict>B</verdict>", "second"),
        ("A is better", "unparsable"),
        ("<verdict>C</verdict>", "unparsable"),
        ("<verdict>A", "unparsable"),
        ("", "unparsable"),
    ],
)
def test_verdicts(reply, verdict):
    assert read_verdict(reply) == verdict


def test_the_judge_sees_everything_once():
    conversation = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "What is 2+2?"))
    (message,) = comparison_messages(conversation, "Four.", "Five.")
    content = message["content"]
    assert message["role"] == "user"
    for text in ("Hi", "Hello", "What is 2+2?", "<answer_a>\nFour.\n</answer_a>", "<answer_b>\nFive.\n</answer_b>"):
        assert content.count(text) == 1
    for verdict in ("A", "B", "tie"):
        assert f"<verdict>{verdict}</verdict>" in content
