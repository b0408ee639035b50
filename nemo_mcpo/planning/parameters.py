# SPDX-License-Identifier: Apache-2.0
"""Exact parameter counts of every rank, and the sizes of megatron-core's buffers for them.

With tensor parallelism t, hidden size H, feed-forward size F, Q = heads · head_dim, K = groups · head_dim and padded
vocabulary V:

    layer   = H (Q + 2 K) / t + Q H / t + 3 H F / t + 2 H   (+ (Q + 2 K) / t biases, + 2 head_dim query and key norms)
    first   = V H / t                                           embedding
    last    = H + V H / t                                       final norm and output layer

A tied output layer is the embedding itself; if the two are on different stages, each has a copy.
"""

from __future__ import annotations

import math

from nemo_mcpo.models.architecture import ModelArchitecture
from nemo_mcpo.planning.workload import Layout

PARAMETER_ALIGNMENT = 64
"""Every parameter starts at a multiple of this many elements (megatron-core's distributed optimizer)."""
BUCKET_ALIGNMENT = 128
"""Every bucket ends at a multiple of this and of the number of replicas."""


def layer_parameters(architecture: ModelArchitecture, tensor: int) -> list[int]:
    """Return the elements of each parameter of a layer on one rank."""
    a = architecture
    query, key = a.num_attention_heads * a.head_dim, a.num_query_groups * a.head_dim
    projected = (query + 2 * key) // tensor
    sizes = [a.hidden_size, query // tensor * a.hidden_size, projected * a.hidden_size, a.hidden_size]
    sizes += [2 * a.ffn_hidden_size // tensor * a.hidden_size, a.ffn_hidden_size // tensor * a.hidden_size]
    return sizes + [projected] * a.qkv_bias + [a.head_dim, a.head_dim] * a.qk_norm


def stage_buckets(architecture: ModelArchitecture, layout: Layout, stage: int) -> list[list[int]]:
    """Return the elements of each parameter of a pipeline stage on one rank, by bucket.

    A model chunk has one bucket, and a second one for an embedding that two stages share.
    """
    a = architecture
    vocabulary = a.padded_vocab_size // layout.tensor * a.hidden_size
    layers = layer_parameters(a, layout.tensor) * (a.num_layers // (layout.pipeline * layout.virtual))
    buckets: list[list[int]] = []
    for chunk in range(layout.virtual):
        first = stage == 0 and chunk == 0
        last = stage == layout.pipeline - 1 and chunk == layout.virtual - 1
        sizes = layers + [a.hidden_size] * last
        if a.tied_embeddings and layout.pipeline > 1:
            buckets += [sizes, [vocabulary]] if first or last else [sizes]
        else:
            copies = first + last - (first and last and a.tied_embeddings)
            buckets.append(sizes + [vocabulary] * copies)
    return buckets


def stage_parameters(architecture: ModelArchitecture, layout: Layout, stage: int) -> int:
    """Return the number of parameters of one rank of a stage, with vocabulary padding."""
    return sum(sum(bucket) for bucket in stage_buckets(architecture, layout, stage))


def bucket_elements(sizes: list[int], replicas: int) -> int:
    """Return the elements of a bucket with its padding."""
    return _up(sum(_up(size, PARAMETER_ALIGNMENT) for size in sizes), math.lcm(replicas, BUCKET_ALIGNMENT))


def stage_elements(architecture: ModelArchitecture, layout: Layout, stage: int) -> list[int]:
    """Return the elements of every bucket of a rank's buffers."""
    return [bucket_elements(bucket, layout.data) for bucket in stage_buckets(architecture, layout, stage)]


def checkpoint_bytes(num_parameters: int, itemsize: int) -> int:
    """Return the size of weights, their float32 copy and Adam's two moments: itemsize + 12 bytes per parameter."""
    return num_parameters * (itemsize + 12)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
