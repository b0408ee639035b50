# SPDX-License-Identifier: Apache-2.0
"""A sequence-classification model as the judge: the highest score wins, and no answer is scored twice."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.judging.cache import VerdictCache
from nemo_mcpo.judging.judgement import Question
from nemo_mcpo.judging.reward_model import RewardModelJudge
from nemo_mcpo.records import Message

QUESTIONS = [
    Question(number, (Message("user", f"{number}: red?"),), ("blue", "seven twelve", "apple not")[: 2 + number])
    for number in range(2)
]


def save(inputs, directory, num_labels: int = 1) -> str:
    """Save a reward model with the tokenizer of ``inputs / "model"``."""
    tokenizer = AutoTokenizer.from_pretrained(inputs / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, num_labels=num_labels, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def directory(inputs) -> str:
    return save(inputs, inputs / "reward")


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


def test_not_a_reward_model(inputs, tmp_path):
    with pytest.raises(CheckpointError, match="several outputs"):
        RewardModelJudge(save(inputs, tmp_path / "three", num_labels=3), 4, VerdictCache(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no weights in the model directory"):
        RewardModelJudge(str(tmp_path / "empty"), 4, VerdictCache(tmp_path / "cache"))


def test_a_language_model_has_no_score(inputs, tmp_path):
    """transformers would initialize the scoring layer at random."""
    with pytest.raises(CheckpointError) as caught:
        RewardModelJudge(str(inputs / "model"), 4, VerdictCache(tmp_path))
    assert caught.value.where.startswith("judge.reward_model: ") and "score.weight" in str(caught.value.got)


@pytest.fixture
def copy(directory, tmp_path) -> Path:
    """A copy of the model for a test to change."""
    return Path(shutil.copytree(directory, tmp_path / "reward"))


def with_template(directory: Path, template: str | None) -> str:
    file = directory / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings.pop("chat_template", None)
    file.write_text(json.dumps(settings))
    for other in directory.glob("*.jinja"):
        other.unlink()
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return str(directory)


PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize("template", [None, "{{ raise_exception('never') }}", "{% for m in messages %}"])
def test_a_model_without_a_usable_template_is_refused(copy, tmp_path, template):
    with pytest.raises(CheckpointError, match="no usable chat template") as caught:
        RewardModelJudge(with_template(copy, template), 4, VerdictCache(tmp_path / "cache"))
    assert caught.value.where == "judge.reward_model"


def test_keys_that_transformers_5_renamed_are_read_alike(copy, directory, tmp_path):
    expected = RewardModelJudge(directory, 4, VerdictCache(tmp_path / "one"))
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    marks = settings.pop("additional_special_tokens")
    newer = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": marks}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | newer))
    config = json.loads((copy / "config.json").read_text())
    theta = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
    del config["rope_scaling"]
    for base, is_same in ((theta["rope_theta"], True), (77.0, False)):
        (copy / "config.json").write_text(json.dumps(config | {"rope_parameters": theta | {"rope_theta": base}}))
        judge = RewardModelJudge(str(copy), 4, VerdictCache(tmp_path / f"{base}"))
        found = [judge._scores(["red seven twelve"]), expected._scores(["red seven twelve"])]
        assert (found[0] == found[1]) == is_same


def test_another_template_or_tokenizer_is_another_judge(copy, directory, tmp_path):
    before = RewardModelJudge(directory, 4, VerdictCache(tmp_path / "cache")).identity
    assert RewardModelJudge(with_template(copy, PLAIN), 4, VerdictCache(tmp_path / "cache")).identity != before


def test_a_conversation_that_the_template_refuses_is_counted(copy, tmp_path, caplog):
    template = "{% if messages[1].role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}" + PLAIN
    judge = RewardModelJudge(with_template(copy, template), 4, VerdictCache(tmp_path / "cache"))
    with_tools = Question(7, (Message("user", "red?"), Message("tool", "4")), ("a", "b", "c"))
    found = dict(judge.judge([QUESTIONS[1], with_tools, with_tools]))
    assert found[7].order == (0,) and found[7].failures == 3 and math.isnan(found[7].win_rate)
    assert found[1].scores is not None and found[1].failures == 0
    assert caplog.text.count("no tools") == 1


def texts_read(judge: RewardModelJudge, monkeypatch) -> list[str]:
    """The texts that the model reads; each score is the length of its text."""
    read: list[str] = []

    def scores(texts):
        read.extend(texts)
        return [float(len(text)) for text in texts]

    monkeypatch.setattr(judge, "_scores", scores)
    return read


def test_long_answers_are_cut_alike_and_counted(copy, tmp_path, monkeypatch):
    judge = RewardModelJudge(with_template(copy, PLAIN), 4, VerdictCache(tmp_path / "cache"))
    assert judge.limit == 256
    read = texts_read(judge, monkeypatch)
    turns = (Message("user", "blue " * 400), Message("assistant", "twelve"), Message("user", "red?"))
    long = Question(0, turns, ("seven " * 300, "seven " * 299, "no"))
    ((_, found),) = judge.judge([long])
    assert found.cut == 3 and len(found.scores) == 3
    short, *others = sorted(read, key=len)
    kept = [text.count("seven") for text in others]
    assert kept[0] == kept[1] > 20 and "seven" not in short
    for text in read:
        assert "blue" not in text and "user: red?" in text and judge._count(text) <= 256
    assert all("characters left out" in text for text in others)
    ((_, found),) = judge.judge([QUESTIONS[0]])
    assert found.cut == 0


def test_an_answer_cannot_feign_turns(directory, tmp_path, monkeypatch):
    judge = RewardModelJudge(directory, 4, VerdictCache(tmp_path / "cache"))
    read = texts_read(judge, monkeypatch)
    end = judge.tokenizer.eos_token
    list(judge.judge([Question(0, (Message("user", "red?"),), (f"bad{end}", "good"))]))
    honest = judge.tokenizer.apply_chat_template(
        [{"role": "user", "content": "red?"}, {"role": "assistant", "content": "good"}], tokenize=False
    )
    feigned = next(text for text in read if "bad" in text)
    assert honest in read and feigned.count(end) == honest.count(end)


def test_padding_does_not_move_the_score(copy, tmp_path):
    """The score is read at the last token, even without a known padding token and with an end token at the end."""
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | {"pad_token_id": None}))
    tokens = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(tokens | {"pad_token": None}))
    judge = RewardModelJudge(str(copy), batch_size=4, cache=VerdictCache(tmp_path / "cache"))
    plain = LlamaForSequenceClassification.from_pretrained(copy)
    texts = ["red", f"red blue seven{judge.tokenizer.eos_token}", "twelve apple not"]
    for text, score in zip(texts, judge._scores(texts), strict=True):
        ids = judge.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            assert score == pytest.approx(plain.score(plain.model(ids)[0])[0, -1, 0].item(), abs=1e-5)


def test_a_score_that_is_not_finite(copy, tmp_path):
    judge = RewardModelJudge(str(copy), 4, VerdictCache(tmp_path / "cache"))
    with torch.no_grad():
        judge.model.score.weight.fill_(math.nan)
    with pytest.raises(CheckpointError, match="not finite") as caught:
        list(judge.judge(QUESTIONS))
    assert caught.value.where == "judge.reward_model"
    assert caught.value.got.startswith("nan for a text that ends with ")
