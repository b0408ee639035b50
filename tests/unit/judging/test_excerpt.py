# SPDX-License-Identifier: Apache-2.0
"""Long conversations and answers are cut, equally for all answers and by no more than necessary."""

from __future__ import annotations

import pytest

from nemo_mcpo.judging.excerpt import MARK_TOKENS, Excerpt, fit

TURNS = [("system", "s" * 10), ("user", "a" * 100), ("assistant", "b" * 100), ("user", "c" * 50)]
ANSWERS = ["x" * 200, "y" * 60]
ALL = 10 + 100 + 100 + 50 + 200 + 60 + 6 * MARK_TOKENS


def shown_tokens(shown, one_by_one=False) -> int:
    def size(text):
        return len(text.head) + len(text.tail) + MARK_TOKENS * (2 if text.left_out else 1)

    answers = [size(text) for text in shown.answers]
    return sum(size(text) for _, text in shown.turns) + (max(answers) if one_by_one else sum(answers))


def test_what_fits_is_whole():
    shown = fit(TURNS, ANSWERS, ALL, len)
    assert shown.turns == tuple((role, Excerpt(text)) for role, text in TURNS)
    assert shown.answers == (Excerpt(ANSWERS[0]), Excerpt(ANSWERS[1]))
    assert not shown.is_cut and shown.turns_left_out == 0


@pytest.mark.parametrize(("missing", "left"), [(1, "sbc"), (100 + MARK_TOKENS, "sbc"), (101 + MARK_TOKENS, "sc")])
def test_the_oldest_turns_go_first(missing, left):
    shown = fit(TURNS, ANSWERS, ALL - missing, len)
    assert "".join(text.head[0] for _, text in shown.turns) == left
    assert [text.left_out for text in shown.answers] == [0, 0]
    assert shown.is_cut and shown.turns_left_out == 4 - len(left)


@pytest.mark.parametrize("room", [300, 350, 420])
def test_then_all_texts_are_cut_to_one_limit(room):
    shown = fit(TURNS, ["x" * 200, "y" * 190], room, len)
    assert [role for role, _ in shown.turns] == ["system", "user"]
    assert not shown.turns[0][1].left_out
    first, second = shown.answers
    assert len(first.head) == len(second.head) and len(first.tail) == len(second.tail)
    assert len(first.head) - len(first.tail) in (0, 1)
    assert first.left_out == 200 - len(first.head + first.tail)
    assert second.left_out == 190 - len(second.head + second.tail)
    assert room - 4 < shown_tokens(shown) <= room


def test_a_short_answer_stays_whole_beside_a_long_one():
    shown = fit([("user", "c" * 30)], ["x" * 2000, "y" * 60], 600, len)
    assert shown.answers[1] == Excerpt("y" * 60) and shown.turns[0][1] == Excerpt("c" * 30)
    assert shown.answers[0].head + shown.answers[0].tail == "x" * (600 - 60 - 30 - 4 * MARK_TOKENS)


def test_answers_that_are_read_one_by_one_share_no_room():
    answers = ["x" * 200, "y" * 190, "z" * 3]
    shown = fit(TURNS, answers, ALL - 60 - MARK_TOKENS, len, one_by_one=True)
    assert not shown.is_cut
    shown = fit([("user", "c" * 50)], answers, 250, len, one_by_one=True)
    assert [text.left_out > 0 for text in shown.answers] == [True, True, False]
    assert len(shown.answers[0].head + shown.answers[0].tail) == len(shown.answers[1].head + shown.answers[1].tail)
    assert 246 < shown_tokens(shown, one_by_one=True) <= 250


def test_bytes_are_counted_where_characters_have_several():
    shown = fit([("user", "?")], ["ü" * 100, "ß" * 100], 300, lambda text: len(text.encode()))
    assert shown.is_cut and all(len((text.head + text.tail).encode()) <= 100 for text in shown.answers)
