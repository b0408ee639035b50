# SPDX-License-Identifier: Apache-2.0
"""What is asked of an engine and what comes back: one sample of the policy, under a key that names it for ever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from nemo_mcpo.records import Message


class SampleKey(NamedTuple):
    """Names one sample of a run: the ``sample``-th answer to a prompt at a temperature, in a segment."""

    segment: int
    prompt_id: int
    temperature: float
    sample: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is answered: the tokens that training sees, and the words, which only servers that take no tokens need."""

    tokens: tuple[int, ...]
    conversation: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One sample to generate."""

    key: SampleKey
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer.

    Attributes:
        text: without the end-of-turn token.
        num_tokens: generated, without the end-of-turn token; of the text encoded again where ``tokens`` is None.
        finished: the policy ended its turn; False where the limit cut the answer, or another end token ended it.
        problem: why there is no answer; such a sample is not drawn again.
        tokens: the ids that were drawn, without the end-of-turn token; None where only the text is known.
        counted: tokens by the server's count where only the text is known, perhaps with the end-of-turn token.
    """

    key: SampleKey
    text: str
    num_tokens: int
    finished: bool
    problem: str = ""
    tokens: tuple[int, ...] | None = None
    counted: int | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How every sample is drawn, whatever its temperature.

    Attributes:
        max_tokens: of an answer.
        top_p: probability mass that is kept at each token, 1.0 for all.
        seed: of the run.
    """

    max_tokens: int
    top_p: float
    seed: int
