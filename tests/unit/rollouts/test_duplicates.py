# SPDX-License-Identifier: Apache-2.0
"""Duplicate answers are kept once, and drawn again under new keys."""

from __future__ import annotations

from nemo_mcpo.rollouts.duplicates import attempt, choose, slots_of

SLOTS = slots_of(3, 7, (0.6, 1.0), 2)
A, B, C, D = SLOTS


def test_slots():
    assert [tuple(slot) for slot in SLOTS] == [(3, 7, 0.6, 0), (3, 7, 0.6, 1), (3, 7, 1.0, 0), (3, 7, 1.0, 1)]


def test_attempts_have_their_own_keys():
    keys = [attempt(slot, number, 2) for slot in SLOTS for number in range(4)]
    assert len(set(keys)) == len(keys)
    assert attempt(B, 0, 2) == B and attempt(B, 2, 2).sample == 5


def test_different_answers_are_all_kept():
    choice = choose(SLOTS, {A: "1", B: "2", C: "3", D: "4"}, 1, 2)
    assert choice == (SLOTS, [])


def test_a_duplicate_waits_for_its_next_draw():
    texts = {A: "1", B: "1", C: "3", D: "3"}
    assert choose(SLOTS, texts, 1, 2) == ([A, C], [B, D])
    again = {attempt(B, 1, 2): "2", attempt(D, 1, 2): "1"}
    # What later rounds have drawn does not change what an earlier round asks for.
    assert choose(SLOTS, texts | again, 1, 2) == ([A, C], [B, D])
    assert choose(SLOTS, texts | again, 2, 2) == ([A, attempt(B, 1, 2), C], [D])


def test_a_new_answer_can_make_a_later_one_a_duplicate():
    texts = {A: "1", B: "1", C: "2", D: "4", attempt(B, 1, 2): "2"}
    assert choose(SLOTS, texts, 2, 2) == ([A, attempt(B, 1, 2), D], [C])
