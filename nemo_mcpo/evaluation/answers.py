# SPDX-License-Identifier: Apache-2.0
"""Greedy or sampled answers of a policy to a set of prompts, and the share of them that is right.

The same arguments give the same answers: batches are fixed, and each is seeded by its number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from tqdm import tqdm

from nemo_mcpo.data.rendered_record import encode_continuations, render_record
from nemo_mcpo.data.tokenization import ChatTokenizer, encode_prompts, render_prompt
from nemo_mcpo.evaluation.intervals import Interval, rate_interval
from nemo_mcpo.platform.in_forks import in_forks
from nemo_mcpo.records import Message, PreferenceRecord, Response
from nemo_mcpo.rollouts.generation import Policy, batches_by_length, generate_batch

Problem = TypeVar("Problem")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to generate: ``temperature`` 0 is greedy; ``max_tokens`` is in tokens, ``batch_size`` in prompts."""

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
    """Token ids of single-turn prompts and of one answer to each, as training sees them."""
    records = [
        PreferenceRecord(question, (Message("user", question),), (Response(answer),))
        for question, answer in zip(questions, answers, strict=True)
    ]
    pairs = [render_record(chat, record) for record in records]
    completions = encode_continuations(chat, [pair.continuations[0] for pair in pairs])
    return encode_prompts(chat, [pair.prompt for pair in pairs]), completions


def generate_answers(
    policy: Policy, questions: Sequence[str], decoding: Decoding, progress: bool = False
) -> list[str]:
    """Generate one answer per question, in order; repeat a question to get several samples."""
    prompts = prompt_tokens(policy.chat, questions)
    work = partial(_texts, policy, prompts, decoding)
    return in_batches(work, [len(prompt) for prompt in prompts], decoding.batch_size, "answers", progress)


def in_batches(
    work: Callable[[tuple[int, list[int]]], Sequence[Result]],
    lengths: Sequence[int],
    batch_size: int,
    description: str,
    progress: bool,
) -> list[Result]:
    """Call ``work`` on batches of answers of similar length; return one result per answer, in order.

    Args:
        work: takes the number of a batch, and the indices of its answers.
        description: what the progress bar shows.
    """
    batches = list(enumerate(batches_by_length(lengths, batch_size)))
    results: dict[int, Result] = {}
    with tqdm(total=len(lengths), desc=description, unit="answer", disable=not progress) as bar:
        for (_, rows), found in zip(batches, in_forks(work, batches), strict=True):
            results.update(zip(rows, found, strict=True))
            bar.update(len(rows))
    return [results[row] for row in range(len(lengths))]


def exact_match(
    problems: Sequence[Problem], answers: Sequence[str], is_right: Callable[[Problem, str], bool]
) -> Interval:
    """The share of problems whose answer is right, with Wilson's 95 % interval; one answer per problem."""
    right = sum(is_right(problem, answer) for problem, answer in zip(problems, answers, strict=True))
    return rate_interval(right, len(problems))


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
