# SPDX-License-Identifier: Apache-2.0
r"""Preference accuracy: the share of (right, wrong) answer pairs in which the right answer has the higher log-prob.

.. math:: \frac{1}{\#\text{pairs}} \sum_x \sum_{i \ge 1} [\log \pi(y_0 | x) > \log \pi(y_i | x)]

As in training, log-probs are summed over the answer's tokens, including the end of turn; a tie counts as wrong. No
reference model is involved, so different policies can be compared on the same pairs. (``rewards/accuracy`` in a
training log compares rewards instead, which start at 0 for every answer.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from nemo_mcpo.evaluation.answers import in_batches, pair_tokens
from nemo_mcpo.evaluation.intervals import Interval, clustered_rate_interval
from nemo_mcpo.rollouts.generation import Policy


@dataclass(frozen=True, slots=True)
class RankedAnswers:
    """A single-turn prompt, its right answer, and at least one wrong answer."""

    question: str
    right: str
    wrong: tuple[str, ...]


def preference_accuracy(
    policy: Policy, items: Sequence[RankedAnswers], batch_size: int, progress: bool = False
) -> Interval:
    """The rate over all pairs, with an interval that accounts for pairs sharing a prompt."""
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
    """Log-prob of each answer given its question, in nats, summed over tokens in float32; in the given order."""
    prompts, completions = pair_tokens(policy.chat, questions, answers)
    lengths = [len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True)]
    return in_batches(partial(_batch_logps, policy, prompts, completions), lengths, batch_size, "log-probs", progress)


@torch.inference_mode()
def _batch_logps(
    policy: Policy, all_prompts: list[list[int]], all_completions: list[list[int]], batch: tuple[int, list[int]]
) -> list[float]:
    _, rows = batch
    prompts, completions = [all_prompts[row] for row in rows], [all_completions[row] for row in rows]
    longest = max(len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True))
    tokens_BS = torch.zeros(len(prompts), longest, dtype=torch.long)
    answer_BS = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        end = len(prompt) + len(completion)
        tokens_BS[row, :end] = torch.tensor(prompt + completion)
        answer_BS[row, len(prompt) : end] = True
    tokens_BS, answer_BS = tokens_BS.to(policy.model.device), answer_BS.to(policy.model.device)
    # Padding is on the right, where causal attention hides it from the answers, so no mask is needed.
    logits = policy.model(tokens_BS[:, :-1]).logits.float()
    token_logps = logits.log_softmax(-1).gather(-1, tokens_BS[:, 1:, None])[..., 0]
    return (token_logps * answer_BS[:, 1:]).sum(1).tolist()
