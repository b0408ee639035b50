# SPDX-License-Identifier: Apache-2.0
"""transformers as an engine: the same requests give the same samples, whatever is already done."""

from __future__ import annotations

import pytest

from nemo_mcpo.rollouts.answers import EMPTY
from nemo_mcpo.rollouts.generation import Answer
from nemo_mcpo.rollouts.hf import HuggingFaceEngine, batch_seed, cut_batches, sample_of
from nemo_mcpo.rollouts.samples import Prompt, Sample, SampleKey, SampleRequest, Sampling

SAMPLING = Sampling(max_tokens=12, top_p=1.0, seed=5)
REQUESTS = [
    SampleRequest(SampleKey(0, prompt, temperature, sample), Prompt(tuple(range(1, 2 + prompt))))
    for prompt in (1, 2, 3)
    for temperature in (0.6, 1.0)
    for sample in range(2)
]


@pytest.fixture(scope="module")
def engine(inputs):
    return HuggingFaceEngine(str(inputs / "model"), SAMPLING, batch_size=4)


def test_batches_have_one_temperature_and_do_not_depend_on_the_order():
    batches = list(cut_batches(REQUESTS, 4))
    assert [len(batch) for batch in batches] == [4, 2, 4, 2]
    assert all(len({request.key.temperature for request in batch}) == 1 for batch in batches)
    assert list(cut_batches(REQUESTS[::-1], 4)) == batches
    assert len({batch_seed(seed, [r.key for r in batch]) for seed in (1, 2) for batch in batches}) == 8


def test_the_same_requests_give_the_same_samples(engine):
    first, again = (
        {sample.key: sample for samples in engine.generate(requests, ()) for sample in samples}
        for requests in (REQUESTS, REQUESTS[::-1])
    )
    assert first == again and first.keys() == {request.key for request in REQUESTS}
    answered = [sample for sample in first.values() if not sample.problem]  # random weights draw empty ones, too
    assert len({sample.text for sample in answered}) > len(REQUESTS) // 2
    assert all(0 < sample.num_tokens <= SAMPLING.max_tokens for sample in answered)
    assert all(len(sample.tokens) == sample.num_tokens for sample in answered)
    assert all(sample.finished == (sample.num_tokens < SAMPLING.max_tokens) for sample in answered)
    # After an interruption whole batches are left out, and what a torn batch still lacks is as it would have been.
    done = {request.key for request in REQUESTS[:5]}
    left = {sample.key: sample for samples in engine.generate(REQUESTS, done) for sample in samples}
    assert left == {key: sample for key, sample in first.items() if key not in done}


def test_samples_are_those_of_every_engine():
    key = REQUESTS[0].key
    assert sample_of(key, Answer("red", False, (20, 21))) == Sample(key, "red", 2, False, tokens=(20, 21))
    assert sample_of(key, Answer("", True, (20,))) == Sample(key, "", 0, False, EMPTY)
