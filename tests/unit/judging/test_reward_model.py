# SPDX-License-Identifier: Apache-2.0
"""A sequence-classification model as the judge: the highest score wins, and no answer is scored twice."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.judging.cache import VerdictCache
from nemo_mcpo.judging.judgement import Question
from nemo_mcpo.judging.reward_model import RewardModelJudge
from nemo_mcpo.models.huggingface.tiny import make_tiny_model
from nemo_mcpo.records import Message
from tests.support.launch import write_preferences

QUESTIONS = [
    Question(number, (Message("user", f"{number}: red?"),), ("blue", "seven twelve", "apple not")[: 2 + number])
    for number in range(2)
]


def save(directory, num_labels: int = 1) -> str:
    write_preferences(directory / "data.jsonl")
    make_tiny_model(directory / "data.jsonl", directory / "policy", "1m", seed=1, vocab_size=300)
    tokenizer = AutoTokenizer.from_pretrained(directory / "policy")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, num_labels=num_labels, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(directory / "reward")
    tokenizer.save_pretrained(directory / "reward")
    return str(directory / "reward")


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("reward"))


def test_scores_are_the_models(directory, tmp_path):
    judge = RewardModelJudge(directory, batch_size=2, cache=VerdictCache(tmp_path))
    found = dict(judge.judge(QUESTIONS))
    assert list(found) == [question.number for question in QUESTIONS]
    for question in QUESTIONS:
        for answer, score in zip(question.answers, found[question.number].scores, strict=True):
            turns = [{"role": "user", "content": question.conversation[0].content}]
            text = judge.tokenizer.apply_chat_template(
                [*turns, {"role": "assistant", "content": answer}], tokenize=True, return_tensors="pt"
            )
            with torch.inference_mode():
                alone = judge.model(text).logits[0, 0].item()
            assert score == pytest.approx(alone, abs=1e-5)
        scores = found[question.number].scores
        assert found[question.number].order[0] == scores.index(max(scores))


def test_nothing_is_scored_twice(directory, tmp_path, monkeypatch):
    cache = VerdictCache(tmp_path)
    first = list(RewardModelJudge(directory, 4, cache).judge(QUESTIONS))
    judge = RewardModelJudge(directory, 4, cache)
    monkeypatch.setattr(judge, "_scores", lambda texts: pytest.fail("scored again"))
    assert list(judge.judge(QUESTIONS)) == first


def test_not_a_reward_model(tmp_path):
    with pytest.raises(CheckpointError, match="several outputs"):
        RewardModelJudge(save(tmp_path, num_labels=3), 4, VerdictCache(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError):
        RewardModelJudge(str(tmp_path / "empty"), 4, VerdictCache(tmp_path / "cache"))
