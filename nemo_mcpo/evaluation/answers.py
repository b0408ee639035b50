# SPDX-License-Identifier: Apache-2.0
"""Answers of a Hugging Face directory to a set of prompts, by transformers' own generation: greedy, or sampled.

The same arguments give the same answers: batches are fixed, and each is seeded by its own number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from nemo_mcpo.data.rendered_record import RenderedRecord, encode_continuations, render_record
from nemo_mcpo.data.tokenization import ChatTokenizer, encode_prompts, render_prompt
from nemo_mcpo.platform.in_forks import in_forks
from nemo_mcpo.records import Message, PreferenceRecord, Response
from nemo_mcpo.rollouts.generation import Policy, batches_by_length, generate_batch


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to answer: ``temperature`` 0 is greedy; ``max_tokens`` and ``batch_size`` count tokens and prompts."""

    temperature: float
    max_tokens: int
    batch_size: int
    seed: int = 0


def prompt_tokens(chat: ChatTokenizer, questions: Sequence[str]) -> list[list[int]]:
    """Token ids of single-turn prompts, as training sees them."""
    return encode_prompts(chat, [render_prompt(chat, [Message("user", question)]) for question in questions])


def pair_tokens(
    chat: ChatTokenizer, questions: Sequence[str], answers: Sequence[str]
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of single-turn prompts, and of one answer to each, as training sees them."""
    pairs = [_rendered(chat, question, answer) for question, answer in zip(questions, answers, strict=True)]
    completions = encode_continuations(chat, [pair.continuations[0] for pair in pairs])
    return encode_prompts(chat, [pair.prompt for pair in pairs]), completions


def generate_answers(
    policy: Policy, questions: Sequence[str], decoding: Decoding, progress: bool = False
) -> list[str]:
    """One answer a question, in the questions' order; repeat a question for several samples."""
    prompts = prompt_tokens(policy.chat, questions)
    answers = [""] * len(questions)
    with tqdm(total=len(questions), desc="answers", unit="answer", disable=not progress) as bar:
        batches = list(enumerate(batches_by_length([len(prompt) for prompt in prompts], decoding.batch_size)))
        for (_, rows), texts in zip(
            batches, in_forks(partial(_texts, policy, prompts, decoding), batches), strict=True
        ):
            for row, text in zip(rows, texts, strict=True):
                answers[row] = text
            bar.update(len(rows))
    return answers


def _texts(
    policy: Policy, prompts: Sequence[Sequence[int]], decoding: Decoding, batch: tuple[int, Sequence[int]]
) -> list[str]:
    number, rows = batch
    generated = generate_batch(
        policy,
        [prompts[row] for row in rows],
        temperature=decoding.temperature,
        max_tokens=decoding.max_tokens,
        top_p=1.0,
        seed=decoding.seed * 1_000_003 + number,
    )
    return [answer.text for answer in generated]


def _rendered(chat: ChatTokenizer, question: str, answer: str) -> RenderedRecord:
    return render_record(chat, PreferenceRecord(question, (Message("user", question),), (Response(answer),)))
