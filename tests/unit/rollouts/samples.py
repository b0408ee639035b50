# SPDX-License-Identifier: Apache-2.0
"""Hand-made samples, and an engine that computes its answers by a function."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence

from nemo_mcpo.rollouts.samples import Sample, SampleKey, SampleRequest


def sample(number: int, text: str = "four", segment: int = 0) -> Sample:
    """An answer to prompt ``number``."""
    return Sample(SampleKey(segment, number, 0.6, 0), text, num_tokens=len(text), finished=True)


class Scripted:
    """An engine whose answers are a function of the key, two at a time."""

    def __init__(self, answer: Callable[[SampleKey], str]) -> None:
        self.answer = answer
        self.generated: list[SampleKey] = []

    def generate(self, requests: Sequence[SampleRequest], done: Container[SampleKey]) -> Iterator[list[Sample]]:
        """See ``samples.Engine``."""
        keys = [request.key for request in requests if request.key not in done]
        for start in range(0, len(keys), 2):
            self.generated += keys[start : start + 2]
            texts = [(key, self.answer(key)) for key in keys[start : start + 2]]
            yield [Sample(key, text, len(text), finished=True) for key, text in texts]

    def close(self) -> None:
        """Nothing to release."""
