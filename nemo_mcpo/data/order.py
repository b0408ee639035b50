# SPDX-License-Identifier: Apache-2.0
"""The order of prompts: sample i of a run is element i mod N of the permutation of epoch i div N.

No prompts are dropped at the end of an epoch, and a resumed run needs only the number of consumed prompts.

>>> PromptStream(3, seed=0, shuffle=False).take(consumed=2, count=3)
[(0, 2), (1, 0), (1, 1)]
"""

from __future__ import annotations

import numpy as np


def epoch_permutation(num_prompts: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of one epoch.

    It sorts raw PCG64 output instead of calling ``Generator.permutation``: NumPy guarantees that the raw stream is the
    same in all versions, but not its shuffling, and a resumed run must see the same order.
    """
    bits = np.random.PCG64(np.random.SeedSequence((seed, epoch)))
    return np.argsort(bits.random_raw(num_prompts), kind="stable")


class PromptStream:
    """The endless sequence of (epoch, index), reshuffled each epoch or in the file's order."""

    def __init__(self, num_prompts: int, seed: int, shuffle: bool) -> None:
        if num_prompts < 1:
            raise ValueError(f"num_prompts must be positive, got {num_prompts}")
        self._num_prompts, self._seed, self._shuffle = num_prompts, seed, shuffle
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def take(self, consumed: int, count: int) -> list[tuple[int, int]]:
        """Return the ``count`` samples after the first ``consumed`` of the run."""
        return [self._sample(number) for number in range(consumed, consumed + count)]

    def _sample(self, number: int) -> tuple[int, int]:
        epoch, place = divmod(number, self._num_prompts)
        if not self._shuffle:
            return epoch, place
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_permutation(self._num_prompts, self._seed, epoch)
        return epoch, int(self._order[place])
