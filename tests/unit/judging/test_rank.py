# SPDX-License-Identifier: Apache-2.0
"""From samples to training data: order, tokens, and prompts without a worse answer."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from nemo_mcpo.data.tokenization import encode_answers, load_chat_tokenizer
from nemo_mcpo.errors import RolloutError
from nemo_mcpo.judging.judgement import Judgement, by_scores
from nemo_mcpo.judging.rank import rank_answers, write_ranked
from nemo_mcpo.judging.rule import RuleJudge
from nemo_mcpo.records import Message
from nemo_mcpo.rollouts.samples import Prompt, Sample, SampleKey

PROMPTS = [Prompt((1, 2, number), (Message("user", f"Question {number}"),)) for number in range(4)]


@pytest.fixture(scope="module")
def chat(inputs):
    return load_chat_tokenizer(str(inputs / "model"))


def answers(*texts: str, finished: bool = True) -> list[Sample]:
    return [Sample(SampleKey(0, 0, 1.0, number), text, len(text), finished) for number, text in enumerate(texts)]


ANSWERS = [answers("red", "red blue", "red blue seven"), answers("sum"), [], answers("not", "sum", finished=False)]


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_ranked_by_a_rule(tmp_path, chat):
    judge = RuleJudge(lambda conversation, answer: len(answer))
    judgements = rank_answers(judge, PROMPTS, ANSWERS, progress=False)
    assert judgements == [by_scores([3, 8, 14]), None, None, by_scores([3, 3])]
    found = write_ranked(tmp_path / "ranked.jsonl", chat, PROMPTS, ANSWERS, judgements, gives_scores=True)
    lines = read(tmp_path / "ranked.jsonl")
    assert [line["prompt_ids"] for line in lines] == [[1, 2, number] for number in range(4)]
    texts = [[chat.tokenizer.decode(answer["ids"]) for answer in line["responses"]] for line in lines]
    end = chat.tokenizer.decode([chat.end_of_turn])
    assert texts[0] == [f"red blue seven{end}", f"red blue{end}", f"red{end}"]
    assert texts[1] == [f"sum{end}"] * 2
    assert texts[2] == [end] * 2
    assert texts[3] == ["not"] * 2  # cut by the limit, so it has no end-of-turn token
    scores = [[answer["score"] for answer in line["responses"]] for line in lines]
    assert scores == [[14.0, 8.0, 3.0], [0.0, 0.0], [0.0, 0.0], [3.0, 3.0]]
    assert [[answer["rank"] for answer in line["responses"]] for line in lines] == [[1, 2, 3], [1, 2], [1, 2], [1, 2]]
    assert (found.prompts, found.without_choice, found.win_rate, found.ties) == (4, 3, 0.75, 1)
    assert math.isnan(found.first_place)


def test_the_tokens_that_were_drawn_are_trained(tmp_path, chat):
    """They differ from those of the text: what was drawn letter by letter is encoded in larger pieces."""
    text = "red blue seven"
    letters = [encode_answers(chat, [letter])[0][0] for letter in text]
    end, own = chat.end_of_turn, encode_answers(chat, [text])[0][:-1]
    assert len(letters) > len(own)
    drawn = [Sample(SampleKey(0, 0, 1.0, number), text, 3, True) for number in range(4)]
    drawn[1] = replace(drawn[1], tokens=tuple(letters))
    drawn[2] = replace(drawn[2], tokens=tuple(letters), finished=False)
    drawn[3] = replace(drawn[3], finished=False)
    judgement = Judgement((1, 0, 2, 3), 1.0, comparisons=3)
    write_ranked(tmp_path / "ranked.jsonl", chat, PROMPTS[:1], [drawn], [judgement], gives_scores=False)
    (line,) = read(tmp_path / "ranked.jsonl")
    assert [answer["ids"] for answer in line["responses"]] == [[*letters, end], [*own, end], letters, own]
    assert (tmp_path / "ranked.jsonl").stat().st_mode & 0o777 == 0o600


def test_positions_and_failures_are_counted(tmp_path, chat):
    judgements = [Judgement((2, 0, 1), 1.0, failures=1, comparisons=9, first_place=9), None, None, None]
    found = write_ranked(tmp_path / "ranked.jsonl", chat, PROMPTS, ANSWERS, judgements, gives_scores=False)
    assert (found.failures, found.first_place) == (1, 1.0)
    assert "score" not in read(tmp_path / "ranked.jsonl")[0]["responses"][0]


def test_answers_have_scores_even_if_no_prompt_has_a_choice(tmp_path, chat):
    write_ranked(tmp_path / "ranked.jsonl", chat, PROMPTS[1:3], ANSWERS[1:3], [None, None], gives_scores=True)
    assert all("score" in answer for line in read(tmp_path / "ranked.jsonl") for answer in line["responses"])


def test_an_unreliable_judge_writes_nothing(tmp_path, chat):
    judgements = [Judgement((2, 0, 1), 1.0, failures=3, comparisons=7), None, None, None]
    with pytest.raises(RolloutError, match="too few verdicts"):
        write_ranked(tmp_path / "ranked.jsonl", chat, PROMPTS, ANSWERS, judgements, gives_scores=False)
    assert not (tmp_path / "ranked.jsonl").exists()
