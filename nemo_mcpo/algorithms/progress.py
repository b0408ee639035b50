# SPDX-License-Identifier: Apache-2.0
"""Progress bar on rank 0: steps with ETA, loss, prompts and tokens per second."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from nemo_mcpo.platform.distributed import is_rank_zero


class Progress:
    """A context manager; call ``update`` once per step. In a log file it prints a line every 10 s or so."""

    def __init__(self, num_steps: int, first_step: int) -> None:
        interval = 0.5 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=num_steps,
            initial=first_step,
            unit="step",
            desc="train",
            mininterval=interval,
            dynamic_ncols=True,
            disable=not is_rank_zero(),
        )
        self._started = time.perf_counter()
        self._prompts = self._tokens = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()

    def update(self, metrics: Mapping[str, float], prompts: int) -> None:
        self._prompts += prompts
        self._tokens += int(metrics["tokens"])
        seconds = time.perf_counter() - self._started
        rates = f"{self._prompts / seconds:.1f} prompts/s, {self._tokens / seconds:.0f} tokens/s"
        self._bar.set_postfix_str(f"loss {metrics['loss']:.4f}, {rates}", refresh=False)
        self._bar.update()
