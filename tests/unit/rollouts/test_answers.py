# SPDX-License-Identifier: Apache-2.0
"""Replies become samples with exactly the tokens that were drawn, or are refused with a reason."""

from __future__ import annotations

import pytest

from nemo_mcpo.data.tokenization import encode_answers, load_chat_tokenizer
from nemo_mcpo.rollouts.answers import EMPTY, length_problem, prompt_problem, sample_of, tokens_differ, vocabulary_of
from nemo_mcpo.rollouts.client import RefusedError, Reply
from nemo_mcpo.rollouts.samples import Prompt, Sample, SampleKey

KEY, PROMPT = SampleKey(0, 7, 1.0, 0), Prompt((1, 5, 6))


@pytest.fixture(scope="module")
def vocabulary(inputs):
    return vocabulary_of(load_chat_tokenizer(str(inputs / "model")))


def ids(vocabulary, text: str) -> tuple[int, ...]:
    """One token per letter, as a policy may draw them."""
    return tuple(encode_answers(vocabulary.chat, [letter])[0][0] for letter in text)


def read(vocabulary, **reply) -> Sample:
    return sample_of(vocabulary, KEY, PROMPT, Reply(**({"text": "", "finished": True} | reply)), max_tokens=20)


@pytest.mark.parametrize("text", ["red blue", ""])  # vLLM and SGLang; TensorRT-LLM
def test_the_end_of_the_turn_is_left_out(vocabulary, text):
    own, end = ids(vocabulary, "red blue"), vocabulary.chat.end_of_turn
    sample = read(vocabulary, text=text, tokens=(*own, end))
    assert sample == Sample(KEY, "red blue", 8, True, tokens=own)
    # A server that does not stop there: what follows was drawn from another distribution than our turns.
    later = f"{text} later" if text else ""
    assert read(vocabulary, text=later, tokens=(*own, end, *ids(vocabulary, " later"))) == sample


def test_a_server_that_omits_the_end_token(vocabulary):
    own, end = ids(vocabulary, "red"), vocabulary.chat.end_of_turn
    assert read(vocabulary, tokens=own).finished
    assert read(vocabulary, tokens=own, ended_by=end).finished
    assert not read(vocabulary, tokens=own, ended_by=end + 1).finished
    assert not read(vocabulary, tokens=own, finished=False).finished


def test_another_end_token_does_not_end_the_turn(vocabulary):
    """It is neither part of the answer nor the token that training would append to it."""
    own, other = ids(vocabulary, "red"), vocabulary.chat.tokenizer.bos_token_id
    assert read(vocabulary, text="red", tokens=(*own, other)) == Sample(KEY, "red", 3, False, tokens=own)
    ordinary = ids(vocabulary, "!")
    assert read(vocabulary, text="red", tokens=(*own, *ordinary), ended_by=ordinary[0]).tokens == own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda own, v: {"tokens": (own[0], v.chat.tokenizer.bos_token_id, *own[1:])},
            "contains the special token '<.begin.>'",
        ),
        (lambda own, v: {"tokens": (*own, v.chat.tokenizer.bos_token_id), "finished": False}, "special token"),
        (lambda own, v: {"tokens": (*own, v.size)}, "is not in the policy's vocabulary of 300"),
        (lambda own, v: {"tokens": own[1:], "text": "red"}, "different tokenizer; 'ed', 'red'"),
        (lambda own, v: {"tokens": own * 8}, "generated 24 tokens, but max_tokens is 20"),
        (lambda own, v: {"text": "red", "num_tokens": 30}, "generated 30 tokens, but max_tokens is 20"),
        (
            lambda own, v: {"tokens": own, "prompt_tokens": (1, 1, 5, 6)},
            "4 tokens.* has 3: it begins with token 1 twice",
        ),
        (lambda own, v: {"tokens": own, "prompt_tokens": (1, 5, 9)}, "token 2 is 9 instead of 6"),
        (lambda own, v: {"text": "red", "num_prompt_tokens": 2}, "prompt has 2 tokens, the policy's has 3"),
    ],
)
def test_replies_that_cannot_be_answers(vocabulary, change, message):
    with pytest.raises(RefusedError, match=message):
        read(vocabulary, **change(ids(vocabulary, "red"), vocabulary))


def test_partial_characters_and_spaces_are_ignored(vocabulary):
    """Servers decode token by token, and either hold back or show partial characters."""
    own = ids(vocabulary, " red blue")
    assert read(vocabulary, text="red blue", tokens=own).text == "red blue"
    half = encode_answers(vocabulary.chat, ["ü"])[0][:1]
    cut = read(vocabulary, text=" red blue", tokens=(*own, *half), finished=False)
    assert cut.tokens == (*own, *half) and cut.text.startswith("red blue")


def test_text_is_encoded_again_and_counted(vocabulary):
    own = encode_answers(vocabulary.chat, ["red blue"])[0][:-1]
    sample = read(vocabulary, text=" red blue\n", num_tokens=9)
    assert sample == Sample(KEY, "red blue", len(own), True, counted=9)
    end = vocabulary.chat.tokenizer.decode([vocabulary.chat.end_of_turn])
    assert read(vocabulary, text=f"red blue{end}").text == "red blue"  # a server that shows special tokens
    assert not read(vocabulary, text="red", ended_by=0).finished
    assert read(vocabulary, text="red", ended_by=vocabulary.chat.end_of_turn).finished


@pytest.mark.parametrize("reply", [{"text": " \n"}, {"tokens": ()}, {"text": ""}])
def test_empty_answers(vocabulary, reply):
    assert read(vocabulary, **reply).problem == EMPTY
    assert read(vocabulary, tokens=(vocabulary.chat.end_of_turn,)).problem == EMPTY


def test_unreported_values_are_not_a_problem():
    assert prompt_problem(PROMPT, Reply("a", True)) == length_problem(Reply("a", True), 1) == ""
    assert prompt_problem(PROMPT, Reply("a", True, prompt_tokens=(1, 5, 6), num_prompt_tokens=3)) == ""


@pytest.mark.parametrize(("end", "differ"), [(0, 1), (1, 1)])
def test_servers_that_count_the_end_of_the_turn_and_those_that_do_not(end, differ):
    def text(number: int, finished: bool, counted: int | None, tokens=None) -> Sample:
        return Sample(SampleKey(0, number, 1.0, 0), "x", 5, finished, tokens=tokens, counted=counted)

    right = [text(number, True, 5 + end) for number in range(3)] + [text(4, False, 5), text(5, True, None)]
    assert tokens_differ(right) == 0
    assert tokens_differ([*right, text(6, True, 9), text(7, True, 9, tokens=(1,) * 5)]) == differ
