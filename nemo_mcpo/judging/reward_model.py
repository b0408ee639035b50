# SPDX-License-Identifier: Apache-2.0
"""Judge ``reward_model``: a Hugging Face sequence-classification model with one output scores every answer."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jinja2 import TemplateError
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedTokenizerBase

from nemo_mcpo.config import Judge as JudgeSettings, OnlineRunConfig
from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.judging.cache import VerdictCache
from nemo_mcpo.judging.excerpt import fit
from nemo_mcpo.judging.fence import inert, with_tokens
from nemo_mcpo.judging.identity import hash_directory
from nemo_mcpo.judging.judgement import JudgeKind, Judgement, Question, by_scores, require_key
from nemo_mcpo.judging.turns import turn_text
from nemo_mcpo.models.huggingface.loading import load_model
from nemo_mcpo.platform.distributed import local_device
from nemo_mcpo.platform.out_of_memory import memory_of
from nemo_mcpo.platform.saved_tokenizers import load_tokenizer
from nemo_mcpo.rollouts.fit import Machine
from nemo_mcpo.rollouts.generation import batches_by_length
from nemo_mcpo.rollouts.served_model import read_served_model

logger = logging.getLogger(__name__)
LEFT_OUT = "[… {} characters left out …]"
QUESTIONS_AT_A_TIME = 64
"""Batches are formed from answers of similar length within so many questions."""


class RewardModelJudge:
    """See ``judgement.Judge``.

    Args:
        directory: safetensors weights and a tokenizer with the chat template that the model was trained with.
        batch_size: number of answers per batch.
    """

    def __init__(self, directory: str, batch_size: int, cache: VerdictCache) -> None:
        self.batch_size, self.cache = batch_size, cache
        self.identity = hash_directory(Path(directory))
        where = "judge.reward_model"
        self.tokenizer = load_tokenizer(directory, where)
        model = load_model(AutoModelForSequenceClassification, directory, where=where, without=("lm_head.",))
        if model.config.num_labels != 1:
            raise CheckpointError(
                "the reward model has several outputs",
                where=where,
                got=model.config.num_labels,
                expected="one, the reward",
                fix="use a reward model, not a classifier",
            )
        self.model = model.to(local_device())
        self.pad = model.config.pad_token_id
        self.limit = _window(self.tokenizer, model.config)
        special = (token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special)
        self.control_tokens = with_tokens(special)
        self.frame = self._count(self._rendered_by_any([("user", "")], ""))
        self.has_warned = False

    def judge(self, questions: Sequence[Question]) -> Iterator[tuple[int, Judgement]]:
        for start in range(0, len(questions), QUESTIONS_AT_A_TIME):
            some = questions[start : start + QUESTIONS_AT_A_TIME]
            shown = {question.number: self._shown(question) for question in some}
            every = dict.fromkeys(text for texts, _ in shown.values() for text in texts)
            missing = [text for text in every if self.cache.get(self.identity, text) is None]
            for rows in batches_by_length([len(text) for text in missing], self.batch_size):
                batch = [missing[row] for row in rows]
                for text, score in zip(batch, self._scores(batch), strict=True):
                    self.cache.put(score, self.identity, text)
            for question in some:
                texts, is_cut = shown[question.number]
                scores = [self.cache.get(self.identity, text) for text in texts]
                if scores:
                    found = by_scores(scores)  # type: ignore[arg-type]
                    yield question.number, replace(found, cut=len(scores) if is_cut else 0)
                else:
                    yield question.number, Judgement((0,), math.nan, failures=len(question.answers))

    def _shown(self, question: Question) -> tuple[list[str], bool]:
        """The text to score for each answer, and whether anything was cut; no texts if the model cannot read them."""
        turns = [(turn.role, self._clean(turn_text(turn))) for turn in question.conversation]
        answers = [self._clean(answer) for answer in question.answers]
        try:
            texts = [self._render(turns, answer) for answer in answers]
            if all(self._fits(text) for text in texts):
                return texts, False
            shown = fit(turns, answers, self.limit - self.frame, self._count, one_by_one=True)
            turns = [(role, text.joined(LEFT_OUT)) for role, text in shown.turns]
            texts = [self._render(turns, answer.joined(LEFT_OUT)) for answer in shown.answers]
        except TemplateError as error:
            return self._no_score(question, f"the model's chat template rejects the conversation: {error}")
        if not all(self._fits(text) for text in texts):
            return self._no_score(question, f"longer than the model's window of {self.limit} tokens")
        return texts, True

    def _no_score(self, question: Question, problem: str) -> tuple[list[str], bool]:
        if not self.has_warned:
            self.has_warned = True
            message = "no scores for the answers to %r: %s; further cases are only counted as failures"
            logger.warning(message, question.conversation[-1].content[:60], problem)
        return [], False

    def _clean(self, text: str) -> str:
        return inert(text, self.control_tokens)

    def _rendered_by_any(self, turns: Sequence[tuple[str, str]], answer: str) -> str:
        """Render a text; raise CheckpointError if the model has no usable template."""
        try:
            return self._render(turns, answer)
        except (TemplateError, ValueError) as error:
            raise CheckpointError(
                "the reward model has no usable chat template",
                where="judge.reward_model",
                got=str(error)[:150],
                fix="add the template that it was trained with to its directory, as chat_template.jinja",
            ) from error

    def _render(self, turns: Sequence[tuple[str, str]], answer: str) -> str:
        messages = [{"role": role, "content": text} for role, text in (*turns, ("assistant", answer))]
        return self.tokenizer.apply_chat_template(messages, tokenize=False)

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _fits(self, text: str) -> bool:
        return len(text.encode()) <= self.limit or self._count(text) <= self.limit

    @memory_of("the reward model")
    @torch.inference_mode()
    def _scores(self, texts: list[str]) -> list[float]:
        rows = [self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
        pad = self.pad
        if pad is None:
            # The score is read at the last token that is not padding, so the padding token must not occur in a text.
            used = {token for row in rows for token in row}
            pad = self.model.config.pad_token_id = next(token for token in itertools.count() if token not in used)
        longest = max(map(len, rows))
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        device = self.model.device
        logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        scores = logits[:, 0].float().tolist()
        for text, score in zip(texts, scores, strict=True):
            if not math.isfinite(score):
                raise CheckpointError(
                    "the reward model returned a score that is not finite",
                    where="judge.reward_model",
                    got=f"{score} for a text that ends with {text[-60:]!r}",
                    fix="use another reward model; the weights of this one are broken, or overflow in their precision",
                )
        return scores

    def close(self) -> None:
        del self.model


def _window(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> int:
    """The model's context window in tokens; tokenizers without one report an astronomical number."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(tokenizer.model_max_length, positions or tokenizer.model_max_length)


def _build(settings: JudgeSettings, shared: Path, own: Path, logs: Path) -> RewardModelJudge:
    return RewardModelJudge(settings.reward_model or "", settings.batch_size, VerdictCache(shared))


def _check(config: OnlineRunConfig) -> None:
    require_key(config.judge.reward_model, "judge.reward_model", "DIR")


def _preflight(config: OnlineRunConfig, machine: Machine) -> tuple[str, ...]:
    read_served_model(config.judge.reward_model or "", "judge.reward_model", needs_template=True)
    return ()


REWARD_MODEL = JudgeKind(_build, _check, _preflight, gives_scores=True)
