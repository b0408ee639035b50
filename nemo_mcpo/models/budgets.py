# SPDX-License-Identifier: Apache-2.0
"""How much is computed at once: what decides the memory of the log-prob head and the rows of a pipeline."""

MICRO_BATCHES_PER_STAGE = 4
"""Rows that a pipeline gets for each of its stages where there are trees enough: a pipeline of p stages idles for
(p - 1) / (m + p - 1) of its time with m micro-batches."""

LOGITS_PER_CHUNK = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Logits alive at once on a rank: few on a CPU, whose caches are small."""

FEWEST_POSITIONS = 256
"""Of a chunk, whatever the vocabulary: every chunk of the backward pass reads and writes the whole weight gradient."""

LOGITS_KEPT = {"cpu": 1 << 24, "cuda": 1 << 27}
"""Logits of a whole row that are kept for the backward pass if there are no more of them (64 MB; 0.5 GB)."""
ELEMENTS_PER_EXCHANGE = 2**25
"""Of one state of the optimizer, of all replicas, that are on a GPU at once for a checkpoint."""
ELEMENTS_PER_UPDATE = 2**25
"""Parameters that a compact Adam updates at once: their states in float32, on the GPU, are its working memory."""
