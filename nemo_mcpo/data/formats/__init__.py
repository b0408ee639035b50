# SPDX-License-Identifier: Apache-2.0
"""One reader per public format; each streams ``PreferenceRecord``, best answer first.

>>> records = FORMATS["nectar"]("nectar.parquet", drop_ranks=[2], max_candidates=None, on_drop=print)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nemo_mcpo.data.formats import jsonl, nectar, tokens, ultrafeedback
from nemo_mcpo.data.formats.records import Dropped
from nemo_mcpo.records import PreferenceRecord

__all__ = ["DROP_RANKS", "FORMATS", "Dropped"]

FORMATS: dict[str, Callable[..., Iterator[PreferenceRecord]]] = {
    "nectar": nectar.FORMAT.read,
    "ultrafeedback": ultrafeedback.FORMAT.read,
    "jsonl": jsonl.FORMAT.read,
    "tokens": tokens.FORMAT.read,
}

DROP_RANKS: dict[str, tuple[int, ...]] = {"nectar": (2,)}
"""Ranks that are left out unless the user says otherwise: arXiv 2502.04567 (5.1) drops Nectar's second answer."""
