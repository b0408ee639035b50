# SPDX-License-Identifier: Apache-2.0
"""Attention of plain sequences, and where a row's sequences lie: the oracle of everything that attends to trees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_mcpo.records import TreeSpan


def places_of_sequences(spans: Sequence[TreeSpan]) -> list[Tensor]:
    """Places in the row of each completion's whole sequence: prompt, then completion."""
    found = []
    for span in spans:
        prompt = torch.arange(span.start, span.prompt_stop)
        found += [torch.cat([prompt, torch.arange(*completion)]) for completion in span.completions] or [prompt]
    return found


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v over one sequence; ``[s, heads, d]``, each key/value head repeated for its query heads."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
    later = torch.ones(len(query), len(query), dtype=torch.bool, device=query.device).triu(1)
    weights = scores.masked_fill(later, -math.inf).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, value)
