# SPDX-License-Identifier: Apache-2.0
"""The frozen records that the rooms pass to each other.

Shape legend, used as a suffix of names throughout the package:
    B  prompts in a batch            K  completions per prompt, column 0 = preferred
    L  candidates (columns that a sampler may return)      M  drawn negatives
    S  tokens in a packed row        N  completions in a packed row
    T  predicted (= completion) tokens in a packed row     P  prompt tokens
    b  prompts in a subset of a batch: one replica's share, or one packed row
Log-probabilities and rewards are in nats, summed over the tokens of a completion, in float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, in the form that a chat template receives.

    Attributes:
        role: ``system``, ``developer``, ``user``, ``assistant``, or ``tool``.
        content: the text; empty if the turn is only a tool call.
        extra: a JSON object with all other fields, such as ``tool_calls`` or ``reasoning_content``; or empty.
    """

    role: str
    content: str
    extra: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the message in the form that templates and servers read.

        >>> Message("assistant", "4", '{"reasoning_content": "2 and 2"}').as_dict()
        {'role': 'assistant', 'content': '4', 'reasoning_content': '2 and 2'}
        """
        return {"role": self.role, "content": self.content, **(json.loads(self.extra) if self.extra else {})}


@dataclass(frozen=True, slots=True)
class Response:
    """One response to a prompt, as the data has it.

    Attributes:
        text: the text, or None if the data gives ``tokens``.
        tokens: token ids, used as they are.
        score: the data's own score, if any; higher is better.
        extra: a JSON object with the other fields of the assistant turn, as in ``Message``; or empty.
    """

    text: str | None = None
    tokens: tuple[int, ...] | None = None
    score: float | None = None
    extra: str = ""


@dataclass(frozen=True, slots=True)
class PreferenceRecord:
    """One prompt and its responses, best first: ``responses[0]`` is preferred, the others are candidates.

    Attributes:
        source: ``file:line`` (or ``file:row``), for error messages and the list of dropped records.
        prompt: a conversation that ends with a user or tool turn, or token ids, used as they are.
        responses: best first.
        inputs: a JSON object with what a chat template reads besides the conversation, such as ``tools``; or empty.
    """

    source: str
    prompt: tuple[Message, ...] | tuple[int, ...]
    responses: tuple[Response, ...]
    inputs: str = ""

    @property
    def turns(self) -> tuple[Message, ...]:
        """The conversation; empty if the prompt is token ids."""
        return tuple(turn for turn in self.prompt if isinstance(turn, Message))


@dataclass(frozen=True, slots=True)
class PromptTree:
    """One prompt with K completions as token ids; completion 0 is preferred.

    Attributes:
        prompt_id: a hash of the tokens, so that it does not depend on the order of the file.
        index: row in the prepared dataset.
        prompt_tokens: int32 ``[P]``.
        completions: K arrays of int32, each with its end-of-turn token.
        scores: float32 ``[K]``, or None.
        ranks: rank of each completion among all completions of its prompt, 0 = best; None if it has all, best first.
    """

    prompt_id: int
    index: int
    prompt_tokens: np.ndarray
    completions: tuple[np.ndarray, ...]
    scores: np.ndarray | None = None
    ranks: tuple[int, ...] | None = None

    def keep(self, columns: Sequence[int]) -> PromptTree:
        """Return the tree with some of its completions, in this order; a column may occur twice."""
        return PromptTree(
            self.prompt_id,
            self.index,
            self.prompt_tokens,
            tuple(self.completions[column] for column in columns),
            None if self.scores is None else self.scores[list(columns)],
            tuple(columns) if self.ranks is None else tuple(self.ranks[column] for column in columns),
        )

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the tree, where the prompt counts once."""
        return len(self.prompt_tokens) + sum(len(completion) for completion in self.completions)


@dataclass(frozen=True, slots=True)
class TreeSpan:
    """Where one tree lies in a row: the prompt begins at ``start``, and each completion ends at its own stop.

    >>> TreeSpan(start=10, prompt_stop=14, completion_stops=(16, 19)).completions
    [(14, 16), (16, 19)]
    """

    start: int
    prompt_stop: int
    completion_stops: tuple[int, ...] = ()

    @property
    def stop(self) -> int:
        """End of the tree."""
        return self.completion_stops[-1] if self.completion_stops else self.prompt_stop

    @property
    def completions(self) -> list[tuple[int, int]]:
        """Start and stop of each completion."""
        starts = (self.prompt_stop, *self.completion_stops[:-1])
        return list(zip(starts, self.completion_stops, strict=False))


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """Several trees packed into one row of S tokens.

    Attributes:
        tokens_S: token ids; padding is token 0.
        positions_S: position ids; every completion restarts at the length of its prompt.
        spans: where each tree lies; trailing padding is one more span, a prompt without completions.
        predictor_T: index into S of the position whose hidden state predicts target t.
        target_T: the predicted token ids, completion by completion.
        num_targets_N: number of targets per completion; 0 if it is not scored.
        prompt_N: row of each completion in the caller's ``[B, K]`` tables.
        column_N: column of each completion in the caller's ``[B, K]`` tables.
        prompts_b: the distinct values of ``prompt_N``, ascending.
        place_N: index of each completion's prompt in ``prompts_b``.
    """

    tokens_S: torch.Tensor
    positions_S: torch.Tensor
    spans: tuple[TreeSpan, ...]
    predictor_T: torch.Tensor
    target_T: torch.Tensor
    num_targets_N: torch.Tensor
    prompt_N: torch.Tensor
    column_N: torch.Tensor
    prompts_b: torch.Tensor
    place_N: torch.Tensor


@dataclass(frozen=True, slots=True)
class PreferenceBatch:
    """One optimizer step: pruned trees (y0 and the drawn negatives) and their tables, on the CPU.

    Attributes:
        trees: B trees; completion k is column k of the tables.
        columns: for each tree, the columns of its completions in the tree they were drawn from.
        ref_logps_BK: reference log-probs, nats, float32, 0 in padding.
        lengths_BK: completion tokens, float32, 1 in padding.
        valid_BK: False for padding columns.
        scores_BK: scores from the data or a judge, higher is better, float32; NaN in padding and where there is none.
        ranks_BK: rank of each completion among all completions of its prompt, 0 = best, int64; 0 in padding.
    """

    trees: tuple[PromptTree, ...]
    columns: tuple[tuple[int, ...], ...]
    ref_logps_BK: torch.Tensor
    lengths_BK: torch.Tensor
    valid_BK: torch.Tensor
    scores_BK: torch.Tensor
    ranks_BK: torch.Tensor

    @property
    def tables(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The tables in the order in which ``ObjectiveInputs`` takes them, after the policy's log-probs."""
        return self.ref_logps_BK, self.lengths_BK, self.valid_BK, self.scores_BK, self.ranks_BK


@dataclass(frozen=True, slots=True)
class ObjectiveInputs:
    """What an objective receives; every tensor is ``[B, K]``, column 0 = preferred, the others in draw order.

    Attributes:
        policy_logps: log-prob of each completion under the policy, with gradient, nats.
        ref_logps: the same under the frozen reference, nats.
        lengths: completion tokens.
        valid: False for padding columns.
        scores: explicit scores from the data or a judge, higher is better, NaN where there is none; or None.
        ranks: rank of each completion among all completions of its prompt, 0 = best; or None.
        state: statistics of earlier batches, for an objective that keeps some (``variant.Statistics``); or None.
    """

    policy_logps: torch.Tensor
    ref_logps: torch.Tensor
    lengths: torch.Tensor
    valid: torch.Tensor
    scores: torch.Tensor | None = None
    ranks: torch.Tensor | None = None
    state: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class ObjectiveOutputs:
    """``loss`` is ``[B]``, one value per prompt (nats); each metric is ``[B]``."""

    loss: torch.Tensor
    metrics: dict[str, torch.Tensor]


Objective = Callable[[ObjectiveInputs], ObjectiveOutputs]
"""An objective with its hyperparameters bound."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Where the time of a training run went."""

    reference_seconds: float
    train_seconds: float
