# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from nemo_mcpo.data.order import PromptStream, epoch_permutation


def test_every_epoch_has_every_prompt_once_without_dropping_any():
    samples = PromptStream(10, seed=1, shuffle=True).take(0, 35)
    assert [epoch for epoch, _ in samples] == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 5
    for epoch in range(3):
        assert sorted(index for e, index in samples if e == epoch) == list(range(10))


def test_epochs_and_seeds_differ():
    orders = [tuple(epoch_permutation(100, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == len(orders)


def test_resume_needs_only_the_number_of_consumed_prompts():
    whole = PromptStream(7, seed=3, shuffle=True).take(0, 45)
    for consumed in range(40):
        assert PromptStream(7, seed=3, shuffle=True).take(consumed, 5) == whole[consumed : consumed + 5]


def test_batches_of_any_size_give_the_same_order():
    stream = PromptStream(7, seed=3, shuffle=True)
    pieces = [sample for start in range(0, 42, 6) for sample in stream.take(start, 6)]
    assert pieces == PromptStream(7, seed=3, shuffle=True).take(0, 42)


def test_without_shuffle_the_order_is_that_of_the_file():
    assert PromptStream(3, seed=9, shuffle=False).take(2, 3) == [(0, 2), (1, 0), (1, 1)]


def test_the_order_is_the_same_in_every_numpy_version():
    # Recorded values: changing them would change every resumed run.
    assert epoch_permutation(8, seed=1234, epoch=0).tolist() == RECORDED


def test_first_prompts_are_uniform():
    firsts = np.bincount([epoch_permutation(5, seed, 0)[0] for seed in range(5000)], minlength=5)
    assert ((firsts - 1000) ** 2 / 1000).sum() < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


RECORDED = [5, 6, 3, 7, 4, 1, 2, 0]
