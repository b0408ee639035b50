# SPDX-License-Identifier: Apache-2.0
"""The parameters of megatron-core model chunks, by names that hold for the whole model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from megatron.core.models.gpt import GPTModel

from nemo_mcpo.models.huggingface.families import CANONICAL_SUFFIXES

LOCAL_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")


def named_parameters(chunks: Sequence[GPTModel]) -> Iterator[tuple[str, int | None, torch.nn.Parameter]]:
    """``(name, layer, parameter)`` of every parameter of this rank's chunks.

    ``name`` is the local layer spec's with ``*`` for the layer, ``layer`` counts from 0 over the whole model and is
    None outside the layers.
    """
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            match = LOCAL_LAYER.fullmatch(name)
            if match is None:
                yield name, None, parameter
            else:
                layer = chunk.decoder.layers[int(match[1])].layer_number - 1
                yield f"decoder.layers.*.{CANONICAL_SUFFIXES.get(match[2], match[2])}", layer, parameter
