# SPDX-License-Identifier: Apache-2.0
"""Duplicate answers among a prompt's samples: which to draw again, and which to keep.

Each prompt needs n samples at each temperature. If sample s repeats an earlier one, it is drawn again as sample s + n,
s + 2 n, …. Every attempt has its own key, so the store alone determines what is missing, and an interrupted round
continues unchanged.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from nemo_mcpo.rollouts.samples import SampleKey


class Choice(NamedTuple):
    """The samples kept for one prompt, in slot order, and the slots for which every draw was a duplicate."""

    kept: list[SampleKey]
    repeated: list[SampleKey]


def slots_of(segment: int, prompt_id: int, temperatures: Sequence[float], samples: int) -> list[SampleKey]:
    """The keys of a prompt's first draws: ``samples`` at each temperature.

    >>> [key.sample for key in slots_of(0, 7, (0.6, 1.0), 2)]
    [0, 1, 0, 1]
    """
    return [SampleKey(segment, prompt_id, temperature, one) for temperature in temperatures for one in range(samples)]


def attempt(slot: SampleKey, number: int, samples: int) -> SampleKey:
    """The key of a slot's ``number``-th draw, 0 for the first."""
    return slot._replace(sample=slot.sample + number * samples)


def draws_of(slot: SampleKey, known: Container[SampleKey], attempts: int, samples: int) -> list[SampleKey]:
    """The keys of a slot's first ``attempts`` draws, in order, as far as they are ``known``."""
    return [key for number in range(attempts) if (key := attempt(slot, number, samples)) in known]


def choose(slots: Sequence[SampleKey], texts: Mapping[SampleKey, str], attempts: int, samples: int) -> Choice:
    """For each slot, keep the first of its ``attempts`` draws whose text no earlier slot has.

    Args:
        slots: the slots of one prompt.
        texts: the texts of all their draws so far.
        attempts: maximum number of draws to consider per slot.
        samples: number of samples at each temperature.
    """
    choice, seen = Choice([], []), set()
    for slot in slots:
        draws = draws_of(slot, texts, attempts, samples)
        fresh = next((key for key in draws if texts[key] not in seen), None)
        if fresh is None:
            choice.repeated.append(slot)
        else:
            seen.add(texts[fresh])
            choice.kept.append(fresh)
    return choice
