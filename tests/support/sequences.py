# SPDX-License-Identifier: Apache-2.0
"""Attention over plain sequences, and the sequences in a row: the reference for tests of attention over trees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_mcpo.records import TreeSpan


def places_of_sequences(spans: Sequence[TreeSpan]) -> list[Tensor]:
    """Return the positions in the row of each completion's whole sequence: prompt, then completion."""
    found = []
    for span in spans:
        prompt = torch.arange(span.start, span.prompt_stop)
        found += [torch.cat([prompt, torch.arange(*completion)]) for completion in span.completions] or [prompt]
    return found


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(q kᵀ / √d) v of one sequence, ``[s, heads, d]``; key/value heads repeat for their query heads."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
    later = torch.ones(len(query), len(query), dtype=torch.bool, device=query.device).triu(1)
    weights = scores.masked_fill(later, -math.inf).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, value)
