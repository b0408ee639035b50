# SPDX-License-Identifier: Apache-2.0
r"""Preference accuracy: the share of (right, wrong) pairs of answers in which the policy finds the right one likelier.

.. math:: \frac{1}{\#\text{pairs}} \sum_x \sum_{i \ge 1} [\log \pi(y_0 | x) > \log \pi(y_i | x)]

Log-probs are summed over the answer's tokens, end of turn included, as in training; a tie counts as wrong. There is no
reference model in it, so that the number of one policy can be compared with that of another on the same pairs. (The
``rewards/accuracy`` of a training log compares rewards instead, which start at 0 for every answer.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from tqdm import tqdm

from nemo_mcpo.evaluation.answers import pair_tokens
from nemo_mcpo.evaluation.intervals import Interval, clustered_rate_interval
from nemo_mcpo.platform.in_forks import in_forks
from nemo_mcpo.rollouts.generation import Policy, batches_by_length


@dataclass(frozen=True, slots=True)
class RankedAnswers:
    """One single-turn prompt, its right answer, and wrong ones (at least one)."""

    question: str
    right: str
    wrong: tuple[str, ...]


def preference_accuracy(
    policy: Policy, items: Sequence[RankedAnswers], batch_size: int, progress: bool = False
) -> Interval:
    """The rate over all pairs, with an interval that counts the pairs of one prompt as related."""
    questions = [item.question for item in items for _ in (item.right, *item.wrong)]
    answers = [answer for item in items for answer in (item.right, *item.wrong)]
    logps = iter(answer_logps(policy, questions, answers, batch_size, progress))
    outcomes = []
    for item in items:
        right = next(logps)
        outcomes.append([right > next(logps) for _ in item.wrong])
    return clustered_rate_interval(outcomes)


def answer_logps(
    policy: Policy, questions: Sequence[str], answers: Sequence[str], batch_size: int, progress: bool = False
) -> list[float]:
    """Log-prob of each answer to its question, nats, summed over tokens in float32; in the order given."""
    prompts, completions = pair_tokens(policy.chat, questions, answers)
    lengths = [len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True)]
    logps = [0.0] * len(lengths)
    with tqdm(total=len(lengths), desc="log-probs", unit="answer", disable=not progress) as bar:
        batches = list(batches_by_length(lengths, batch_size))
        for rows, values in zip(
            batches, in_forks(partial(_batch_logps, policy, prompts, completions), batches), strict=True
        ):
            for row, value in zip(rows, values, strict=True):
                logps[row] = value
            bar.update(len(rows))
    return logps


@torch.inference_mode()
def _batch_logps(
    policy: Policy, all_prompts: list[list[int]], all_completions: list[list[int]], rows: Sequence[int]
) -> list[float]:
    prompts, completions = [all_prompts[row] for row in rows], [all_completions[row] for row in rows]
    longest = max(len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True))
    tokens_BS = torch.zeros(len(prompts), longest, dtype=torch.long)
    answer_BS = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        end = len(prompt) + len(completion)
        tokens_BS[row, :end] = torch.tensor(prompt + completion)
        answer_BS[row, len(prompt) : end] = True
    tokens_BS, answer_BS = tokens_BS.to(policy.model.device), answer_BS.to(policy.model.device)
    # Padding stands on the right, where causal attention keeps it from every answer: no mask is needed.
    logits = policy.model(tokens_BS[:, :-1]).logits.float()
    token_logps = logits.log_softmax(-1).gather(-1, tokens_BS[:, 1:, None])[..., 0]
    return (token_logps * answer_BS[:, 1:]).sum(1).tolist()
