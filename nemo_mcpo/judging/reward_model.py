# SPDX-License-Identifier: Apache-2.0
"""Judge ``reward_model``: a Hugging Face sequence-classification model with one output scores every answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from nemo_mcpo.errors import CheckpointError
from nemo_mcpo.judging.cache import VerdictCache
from nemo_mcpo.judging.judgement import Judgement, Question, by_scores
from nemo_mcpo.models.huggingface.hashing import hash_weights
from nemo_mcpo.platform.distributed import local_device
from nemo_mcpo.platform.out_of_memory import memory_of
from nemo_mcpo.rollouts.generation import batches_by_length

QUESTIONS_AT_A_TIME = 64
"""Of which answers of similar length make a batch."""


class RewardModelJudge:
    """See ``judgement.Judge``.

    Args:
        directory: safetensors weights and a tokenizer with the chat template that the model was trained with.
        batch_size: answers at a time.
        cache: of scores.
    """

    def __init__(self, directory: str, batch_size: int, cache: VerdictCache) -> None:
        self.batch_size, self.cache = batch_size, cache
        self.identity = hash_weights(Path(directory))
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(
                directory, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            cure = "give a directory that AutoModelForSequenceClassification loads"
            raise CheckpointError(
                "no usable reward model", where="judge.reward_model", got=str(error)[:150], cure=cure
            ) from error
        if model.config.num_labels != 1:
            raise CheckpointError(
                "the reward model has several outputs",
                where="judge.reward_model",
                got=model.config.num_labels,
                expected="one: the reward",
                cure="give a reward model, not a classifier",
            )
        self.tokenizer.truncation_side = "left"  # what is judged stands at the end
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model = model.eval().to(local_device())

    def judge(self, questions: Sequence[Question]) -> Iterator[tuple[int, Judgement]]:
        """See ``judgement.Judge``."""
        for start in range(0, len(questions), QUESTIONS_AT_A_TIME):
            some = questions[start : start + QUESTIONS_AT_A_TIME]
            texts = {q.number: [self._render(q, answer) for answer in q.answers] for q in some}
            every = dict.fromkeys(text for own in texts.values() for text in own)
            missing = [text for text in every if self.cache.get(self.identity, text) is None]
            for rows in batches_by_length([len(text) for text in missing], self.batch_size):
                batch = [missing[row] for row in rows]
                for text, score in zip(batch, self._scores(batch), strict=True):
                    self.cache.put(score, self.identity, text)
            for number, own in texts.items():
                yield number, by_scores([self.cache.get(self.identity, text) for text in own])  # type: ignore[misc]

    def _render(self, question: Question, answer: str) -> str:
        turns = [asdict(turn) for turn in question.conversation] + [{"role": "assistant", "content": answer}]
        return self.tokenizer.apply_chat_template(turns, tokenize=False)

    @memory_of("the reward model")
    @torch.inference_mode()
    def _scores(self, texts: list[str]) -> list[float]:
        limit = getattr(self.model.config, "max_position_embeddings", None)
        batch = self.tokenizer(
            texts, return_tensors="pt", padding=True, truncation=limit is not None, max_length=limit,
            add_special_tokens=False,
        )  # fmt: skip
        device = self.model.device
        logits = self.model(
            input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device)
        ).logits
        scores = logits[:, 0].float().tolist()
        if not all(map(math.isfinite, scores)):
            raise CheckpointError(
                "the reward model gives scores that are not finite",
                where="judge.reward_model",
                got=scores,
                cure="its weights are broken; judge.batch_size=1 shows at which answer",
            )
        return scores

    def close(self) -> None:
        """See ``judgement.Judge``."""
        del self.model
