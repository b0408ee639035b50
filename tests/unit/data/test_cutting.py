# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import numpy as np
import pytest

from nemo_mcpo.data.chat_template import RefusedByTemplate, render
from nemo_mcpo.data.cutting import cut_prompt, cut_sequences
from nemo_mcpo.data.tokenization import ChatTokenizer, encode_prompts, load_chat_tokenizer
from nemo_mcpo.records import Message, PreferenceRecord
from tests.unit.data.chat_tokenizers import FAMILIES, save_tokenizer

SYSTEM = Message("system", "Be kind.")
LONG = Message("user", "alpha beta gamma delta " * 30 + "Why?")


@pytest.fixture(scope="module", params=["llama3", "qwen2"])
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    directory = tmp_path_factory.mktemp(request.param)
    return load_chat_tokenizer(save_tokenizer(directory, FAMILIES[request.param]))


def tokens(chat: ChatTokenizer, *turns: Message) -> list[int]:
    return encode_prompts(chat, [render(chat.tokenizer, turns, add_generation_prompt=True)])[0]


def text(chat: ChatTokenizer, turns: tuple[Message, ...], limit: int) -> str:
    ids = cut_prompt(chat, PreferenceRecord("x:1", turns, ()), limit)
    assert len(ids) <= limit
    return chat.tokenizer.decode(ids)


def test_oldest_turns_are_removed_first_and_the_system_turn_stays(chat):
    old, first_reply, middle, second_reply, last = (
        Message("user", "first"), Message("assistant", "one"), Message("user", "second"), Message("assistant", "two"),
        Message("user", "third"),
    )  # fmt: skip
    turns = (SYSTEM, old, first_reply, middle, second_reply, last)
    for kept in ((SYSTEM, middle, second_reply, last), (SYSTEM, last)):
        whole = tokens(chat, *kept)
        assert cut_prompt(chat, PreferenceRecord("x:1", turns, ()), len(whole)) == whole
        assert cut_prompt(chat, PreferenceRecord("x:1", turns, ()), len(tokens(chat, *turns)) - 1) != whole[:-1]


def test_template_text_stays_when_a_turn_loses_its_beginning(chat):
    whole = chat.tokenizer.decode(tokens(chat, SYSTEM, LONG))
    limit = len(tokens(chat, SYSTEM, Message("user", ""))) + 25
    cut = text(chat, (SYSTEM, LONG), limit)
    frame, _, _ = whole.partition("alpha")
    assert cut.startswith(frame) and "Be kind." in cut
    assert whole.endswith(cut.removeprefix(frame)) and "Why?" in cut
    assert len(cut) < len(whole)


def test_as_much_as_fits_is_kept(chat):
    least = len(tokens(chat, SYSTEM, Message("user", "")))
    for limit in range(least + 3, len(tokens(chat, SYSTEM, LONG)), 17):
        assert len(cut_prompt(chat, PreferenceRecord("x:1", (SYSTEM, LONG), ()), limit)) >= limit - 3


def test_no_character_is_split(chat):
    smiles = Message("user", "\N{GRINNING FACE}\N{SNOWMAN}" * 20 + " ok")
    least = len(tokens(chat, SYSTEM, Message("user", "")))
    for limit in range(least + 5, least + 20):
        assert "\N{REPLACEMENT CHARACTER}" not in text(chat, (SYSTEM, smiles), limit)


def test_a_call_and_its_result_stay_with_their_question(chat):
    turns = (LONG, Message("assistant", "call"), Message("tool", "the result is 4"))
    cut = text(chat, turns, len(tokens(chat, *turns)) - 40)
    assert "the result is 4" in cut and "Why?" in cut and "call" in cut


def test_a_prompt_without_room_for_text_is_refused(chat):
    with pytest.raises(RefusedByTemplate, match="fits in max_prompt_length"):
        cut_prompt(chat, PreferenceRecord("x:1", (SYSTEM, LONG), ()), 4)


def test_truncation_keeps_the_end_of_prompts_and_the_beginning_of_completions():
    cut = cut_sequences([1, 2, 3, 4], [[5, 6, 7, 8, 0], [9, 0]], max_prompt_length=3, max_length=5)
    assert cut.prompt.tolist() == [2, 3, 4]
    assert [ids.tolist() for ids in cut.completions] == [[5, 6], [9, 0]]
    assert cut.lost == (1, 3, 0)
    assert cut.prompt.dtype == cut.completions[0].dtype == np.int32


def test_truncation_properties():
    rng = random.Random(0)
    for _ in range(500):
        prompt = [rng.randrange(1, 9) for _ in range(rng.randint(1, 12))]
        completions = [[rng.randrange(1, 9) for _ in range(rng.randint(0, 12))] + [0] for _ in range(3)]
        max_prompt_length = rng.randint(1, 8)
        max_length = max_prompt_length + rng.randint(1, 8)
        cut = cut_sequences(prompt, completions, max_prompt_length, max_length)
        assert prompt[-len(cut.prompt) :] == cut.prompt.tolist()
        assert len(cut.prompt) == min(len(prompt), max_prompt_length)
        for completion, kept in zip(completions, cut.completions, strict=True):
            assert len(kept) == min(len(completion), max_length - len(cut.prompt)) >= 1
            assert completion[: len(kept)] == kept.tolist()
            assert (0 in kept) == (len(kept) == len(completion))  # a cut completion has no end of turn
            alone = cut_sequences(prompt, [completion], max_prompt_length, max_length).completions[0]
            assert alone.tolist() == kept.tolist()
