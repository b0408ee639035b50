# SPDX-License-Identifier: Apache-2.0
"""Engine ``hf``: generation with transformers in this process, on CPU or GPU.

The same requests give the same samples: batches are formed from the whole round, each with one temperature and prompts
of similar length, and seeded by the keys it contains. An interrupted round resumes at the batch level.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from functools import partial

from nemo_mcpo.platform.in_forks import in_forks
from nemo_mcpo.rollouts.answers import EMPTY
from nemo_mcpo.rollouts.engine import EngineKind
from nemo_mcpo.rollouts.generation import Answer, Policy, batches_by_length, generate_batch, load_policy
from nemo_mcpo.rollouts.samples import Sample, SampleKey, SampleRequest, Sampling
from nemo_mcpo.sampling.seeding import seed_from


class HuggingFaceEngine:
    """See ``engine.Engine``; ``batch_size`` counts samples."""

    def __init__(self, directory: str, sampling: Sampling, batch_size: int) -> None:
        self.policy, self.sampling, self.batch_size = load_policy(directory), sampling, batch_size

    def generate(self, requests: Sequence[SampleRequest], done: Container[SampleKey]) -> Iterator[list[Sample]]:
        batches = cut_batches(requests, self.batch_size)
        missing = [batch for batch in batches if not all(request.key in done for request in batch)]
        for samples in in_forks(partial(_answers, self.policy, self.sampling), missing):
            yield [sample for sample in samples if sample.key not in done]

    def close(self) -> None:
        del self.policy


def _answers(policy: Policy, sampling: Sampling, batch: Sequence[SampleRequest]) -> list[Sample]:
    answers = generate_batch(
        policy,
        [request.prompt.tokens for request in batch],
        temperature=batch[0].key.temperature,
        max_tokens=sampling.max_tokens,
        top_p=sampling.top_p,
        seed=batch_seed(sampling.seed, [request.key for request in batch]),
    )
    return [sample_of(request.key, answer) for request, answer in zip(batch, answers, strict=True)]


def sample_of(key: SampleKey, answer: Answer) -> Sample:
    """A sample with exactly the tokens that were drawn, or with a problem if the text is empty."""
    if not answer.text:
        return Sample(key, "", 0, False, EMPTY)
    return Sample(key, answer.text, len(answer.tokens), answer.finished, tokens=answer.tokens)


def cut_batches(requests: Sequence[SampleRequest], batch_size: int) -> Iterator[list[SampleRequest]]:
    """Form batches of one temperature and similar prompt lengths, independent of the order of ``requests``."""
    for temperature in sorted({request.key.temperature for request in requests}):
        same = [request for request in requests if request.key.temperature == temperature]
        same.sort(key=lambda request: request.key)
        for rows in batches_by_length([len(request.prompt.tokens) for request in same], batch_size):
            yield [same[row] for row in rows]


def batch_seed(run_seed: int, keys: Sequence[SampleKey]) -> int:
    """A 63-bit seed made from the run's seed and the batch's keys, the same on every machine."""
    return seed_from(repr((run_seed, [tuple(key) for key in keys])))


HF = EngineKind(
    build=lambda directory, rollouts, sampling, logs: HuggingFaceEngine(directory, sampling, rollouts.batch_size)
)
