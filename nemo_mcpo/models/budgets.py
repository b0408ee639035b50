# SPDX-License-Identifier: Apache-2.0
"""How much is processed at once: the sizes that bound working memory, shared with the planner.

Without torch, so that ``scripts/plan.py`` starts at once.
"""

MICRO_BATCHES_PER_STAGE = 4
"""Rows per pipeline stage, if there are enough trees: a pipeline of p stages is idle for (p - 1) / (m + p - 1) of its
time with m micro-batches."""

LOGITS_PER_CHUNK = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Logits in memory at once on a rank; fewer on a CPU, so that they fit its caches."""

FEWEST_POSITIONS = 256
"""Smallest chunk of positions: each chunk of the backward pass reads and writes the whole weight gradient."""

LOGITS_KEPT = {"cpu": 1 << 24, "cuda": 1 << 27}
"""A row with at most this many logits keeps them for the backward pass (64 MB on a CPU, 0.5 GB on a GPU)."""

ELEMENTS_PER_EXCHANGE = 2**25
"""Elements of one optimizer state, over all replicas, on a GPU at once when a checkpoint is saved or loaded."""

ELEMENTS_PER_UPDATE = 2**25
"""Parameters that ``CompactAdamW`` updates at once; their float32 states are its working memory on the GPU."""
