# SPDX-License-Identifier: Apache-2.0
"""Equal answers among a prompt's samples: which to draw again, and which to keep in the end.

A prompt asks for n samples at each of its temperatures. Sample s that repeats an earlier one is drawn again as
samples s + n, s + 2 n, …: every attempt has a key of its own, so that the store decides alone what is still missing,
and an interrupted round is asked for again as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nemo_mcpo.rollouts.samples import SampleKey


class Choice(NamedTuple):
    """The samples of one prompt that were kept, in the order of the slots, and the slots that stayed duplicates."""

    kept: list[SampleKey]
    repeated: list[SampleKey]


def slots_of(segment: int, prompt_id: int, temperatures: Sequence[float], samples: int) -> list[SampleKey]:
    """The first keys of a prompt: ``samples`` at each temperature.

    >>> [key.sample for key in slots_of(0, 7, (0.6, 1.0), 2)]
    [0, 1, 0, 1]
    """
    return [SampleKey(segment, prompt_id, temperature, one) for temperature in temperatures for one in range(samples)]


def attempt(slot: SampleKey, number: int, samples: int) -> SampleKey:
    """The key of a slot's ``number``-th draw, 0 for the first."""
    return slot._replace(sample=slot.sample + number * samples)


def choose(slots: Sequence[SampleKey], texts: Mapping[SampleKey, str], attempts: int, samples: int) -> Choice:
    """Keep, slot by slot, the first of ``attempts`` draws whose text no earlier slot has.

    Args:
        slots: of one prompt.
        texts: of all their draws so far.
        attempts: draws to look at; those of a slot that was not drawn so often are all that there are.
        samples: at each temperature.
    """
    choice, seen = Choice([], []), set()
    for slot in slots:
        draws = [key for number in range(attempts) if (key := attempt(slot, number, samples)) in texts]
        fresh = next((key for key in draws if texts[key] not in seen), None)
        if fresh is None:
            choice.repeated.append(slot)
        else:
            seen.add(texts[fresh])
            choice.kept.append(fresh)
    return choice
